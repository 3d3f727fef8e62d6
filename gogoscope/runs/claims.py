"""Beginning a run, or waiting for what comes of somebody else's.

The callers of one event loop that want the same run stand in line. Only the first asks the store,
so a hundred duplicates make no more requests than one; when a verdict is known, everybody in the
line has it. While the run is held here, nobody asks: its end wakes the first.

A run that was seen unchanged for the whole length of its lease is dead, whatever any clock says.
"""

from __future__ import annotations

import math

import anyio

from gogoscope._core.background import Home
from gogoscope._core.clock import monotonic
from gogoscope._core.context import slots_lent
from gogoscope._core.jitter import jittered
from gogoscope._core.per_store import PerStore
from gogoscope.exceptions import (
    OutcomeUnknownError,
    PayloadMismatchError,
    RunInProgressError,
)
from gogoscope.persistence.bundle import Persistence, unsupported
from gogoscope.persistence.lock_claims import claim_handle, new_claim
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.lock_watching import Watches
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.run_records import RunRecord
from gogoscope.runs.once import Once

FIRST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 1.0
REQUEST_SECONDS = 1.0
"""How long an answer is waited for, however short the wait for the run may be."""


class RunLeases:
    """The runs of a store, as the leases that a ``LockHandle`` knows.

    ``found`` is the run as the last answer to a claim showed it.
    """

    __slots__ = ("_once", "_provider", "found")

    def __init__(self, provider: RunProvider, once: Once) -> None:
        self._provider = provider
        self._once = once
        self.found: RunRecord | None = None

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Begin a run in one write, or learn who runs or what came of it."""
        once = self._once
        reply = await self._provider.claim_run(
            key, claim, payload=once.payload, after_crash=once.after_crash, seen=seen
        )
        self.found = reply.record
        return LockReply(reply.granted, reply.record.lease, reply.dead_in_ms)

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last longer."""
        return await self._provider.renew_run(key, nonce, version, lease_ms, until_ms)

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Abandon the run of ``nonce``."""
        return await self._provider.abandon_run(key, nonce)

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return the lease of who runs."""
        record = await self._provider.read_run(key)
        return None if record is None or record.state != "running" else record.lease

    def lease_left_ms(self, record: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds."""
        return self._provider.run_left_ms(record)


class Line:
    """The callers of one event loop that want one run; it is the releaser of the run's handle."""

    # _turn: who has it asks the store.
    # _changed: is set when the run that was held here has ended.
    # _verdict: what the run came to, for those who were in the line then.
    # _held: the run that is held here, and how its claim left it.
    # _users: how many wait, or hold the run.

    def __init__(self, provider: RunProvider, key: str, lines: dict[str, Line]) -> None:
        self._provider = provider
        self._key = key
        self._lines = lines
        self._turn = anyio.Lock()
        self._changed = anyio.Event()
        self._verdict: RunRecord | None = None
        self._held: tuple[LockHandle | None, RunRecord | None] = None, None
        self._users = 0
        self._watched = _watches.of(provider).of(key)

    async def begin(self, home: Home, once: Once) -> LockHandle | RunRecord:
        """Begin the run, or return its verdict.

        :raises RunInProgressError: if somebody else runs, for longer than the caller waits
        :raises OutcomeUnknownError: if the last run died and is not to be repeated
        :raises PayloadMismatchError: if the run was asked to do something else
        """
        self._users += 1
        patience = math.inf if once.wait is None else once.wait
        give_up_at = monotonic() + patience
        try:
            if patience == 0:
                return await self._first(home, once, give_up_at)
            async with slots_lent():
                with anyio.move_on_after(patience) as limit:
                    await self._turn.acquire()
                if limit.cancelled_caught:
                    raise self._in_progress(once, None)
                try:
                    return await self._first(home, once, give_up_at)
                finally:
                    self._turn.release()
        finally:
            self._leave()

    def settle(self, record: RunRecord) -> None:
        """Let those who are in the line have the verdict; who comes later asks the store."""
        self._verdict = record
        self._forget()
        self._changed.set()

    def check_here(self) -> None:
        """Do nothing: the scope of the run's block asks."""

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        """Abandon the run of a handle."""
        return await handle._free(in_time)

    def released(self, handle: LockHandle, freed: bool) -> None:
        """Wake the first in the line."""
        self._held = None, None
        self._changed.set()
        self._leave()

    async def _first(self, home: Home, once: Once, give_up_at: float) -> LockHandle | RunRecord:
        leases = RunLeases(self._provider, once)
        pause = FIRST_POLL_SECONDS
        dead_in = math.inf
        while True:
            if self._verdict is not None:
                return self._told(self._verdict, once)
            self._changed = anyio.Event()
            record = self._held_here() if once.wait != 0 else None
            if record is None:
                answer = await self._ask(home, once, leases, give_up_at)
                record = leases.found
                if isinstance(answer, LockHandle):
                    self._held = answer, record
                    self._users += 1
                    return answer
                self._watched.look(None if record is None else record.lease)
                dead_in = answer.dead_in_ms / 1000 or math.inf
            if record is not None and (
                record.state not in ("running", "open") or record.is_for_another(once.payload)
            ):
                return self._told(record, once)
            left = give_up_at - monotonic()
            if left <= 0:
                raise self._in_progress(once, record)
            await self._sleep(min(left, self._pause(pause, dead_in)))
            pause = min(2 * pause, LONGEST_POLL_SECONDS)

    async def _ask(
        self, home: Home, once: Once, leases: RunLeases, give_up_at: float
    ) -> LockHandle | LockReply:
        patience = give_up_at - monotonic()
        return await claim_handle(
            leases,
            self._key,
            new_claim(once.lease, metadata={"scope": home.name}),
            once.lease,
            seen=None if leases.found is None else self._watched.dead(),
            releaser=self,
            patience=math.inf if once.wait == 0 else max(patience, REQUEST_SECONDS),
            spawn=home.spawn,
        )

    def _told(self, record: RunRecord, once: Once) -> RunRecord:
        """Return a verdict, if it is one for the caller."""
        if record.is_for_another(once.payload):
            raise PayloadMismatchError(self._key, "the key was used before, with another payload")
        if record.state == "unknown":
            raise OutcomeUnknownError(
                self._key,
                f"it was begun by {_who(record)}, which died; whether it had its effect is to be "
                "said with store.resolve_run(key, result=...) or store.resolve_run(key, "
                "repeat=True)",
            )
        return record

    def _in_progress(self, once: Once, record: RunRecord | None) -> RunInProgressError:
        holder = "this process" if record is None else _who(record)
        within = f" within {once.wait:g} s" if once.wait else ""
        return RunInProgressError(self._key, f"it did not end{within}: it runs in {holder}")

    def _held_here(self) -> RunRecord | None:
        handle, record = self._held
        return record if handle is not None and handle.lost is None else None

    def _pause(self, pause: float, dead_in: float) -> float:
        """Return the seconds until it makes sense to ask, unless the run held here ends before."""
        handle, _ = self._held
        if handle is not None and handle.lost is None:
            return handle._deadline - monotonic()
        dead_in = min(dead_in, self._watched.dead_at() - monotonic())
        return min(jittered(pause), max(0.0, dead_in) + jittered(FIRST_POLL_SECONDS))

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._changed.wait()

    def _leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._forget()

    def _forget(self) -> None:
        if self._lines.get(self._key) is self:
            del self._lines[self._key]


def _who(record: RunRecord) -> str:
    told = record.lease.metadata
    return f"process {told.get('pid', '?')} of {told.get('host', '?')}"


def _no_lines() -> dict[str, Line]:
    return {}


_lines = PerStore("run_lines", _no_lines)
_watches = PerStore("run_watches", Watches)


def line_of(provider: RunProvider, key: str) -> Line:
    """Return the line for a run in the current event loop; it lasts while anybody is in it."""
    lines = _lines.of(provider)
    line = lines.get(key)
    if line is None:
        line = lines[key] = Line(provider, key, lines)
    return line


def runs_of(home: Home) -> RunProvider:
    """Return the runs of a scope's store.

    :raises CapabilityNotSupportedError: if it has none
    """
    store = home.store()
    provider = Persistence.of(store).runs
    if provider is None:
        raise unsupported("runs", store)
    return provider
