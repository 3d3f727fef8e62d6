"""Beginning a run, or waiting for what comes of somebody else's.

When a verdict is known, everybody in the line has it: so a hundred duplicates in one process make
no more requests than one.
"""

from __future__ import annotations

import math

from gogoscope._core.background import Home
from gogoscope._core.clock import monotonic
from gogoscope.exceptions import (
    OutcomeUnknownError,
    PayloadMismatchError,
    RunInProgressError,
)
from gogoscope.locks.line import Line, Lines, Want
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.run_records import RunRecord
from gogoscope.runs.local import LocalVerdicts
from gogoscope.runs.once import Once


class RunLeases:
    """The runs of a store, as the leases that a ``LockHandle`` knows.

    ``found`` is the run as the last answer to a claim showed it.
    """

    __slots__ = ("_local", "_once", "_provider", "found")

    leased = "run"

    def __init__(self, provider: RunProvider, once: Once) -> None:
        self._provider = provider
        self._once = once
        self._local = LocalVerdicts(once.local, provider)
        self.found: RunRecord | None = None

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Begin a run in one write, or learn who runs or what came of it."""
        once, asked_at = self._once, monotonic()
        reply = await self._provider.claim_run(
            key, claim, payload=once.payload, after_crash=once.after_crash, seen=seen
        )
        self.found = reply.record
        kept = None if reply.kept_ms is None else reply.kept_ms / 1000
        self._local.keep(key, reply.record, kept, asked_at)
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


class RunLine(Line):
    """The callers of one event loop that want one run."""

    # _verdict: what the run came to, for those who were in the line then.
    # _running: the run that is held here, as its claim left it.

    _verdict: RunRecord | None = None
    _running: RunRecord | None = None

    async def begin(self, home: Home, provider: RunProvider, once: Once) -> LockHandle | RunRecord:
        """Begin the run, or return its verdict.

        :raises RunInProgressError: if somebody else runs, for longer than the caller waits
        :raises OutcomeUnknownError: if the last run died and is not to be repeated
        :raises PayloadMismatchError: if the run was asked to do something else
        """
        leases = RunLeases(provider, once)
        patience = math.inf if once.wait is None else once.wait
        want = Want(leases, once.lease, patience, lambda: self._look(leases, once))
        answer = await self.take(home, want)
        if answer is None:
            within = f" within {once.wait:g} s" if once.wait else ""
            holder = _who(leases.found or self._running)
            raise RunInProgressError(self._key, f"it did not end{within}: it runs in {holder}")
        if isinstance(answer, LockHandle):
            self._running = leases.found
        return answer

    def settle(self, record: RunRecord) -> None:
        """Let those who are in the line have the verdict; who comes later asks the store."""
        self._verdict = record
        self._close()

    def _look(self, leases: RunLeases, once: Once) -> RunRecord | None:
        """Return the verdict, if it is one for the caller."""
        record = self._verdict or leases.found
        if record is None and self._held_here() is not None:
            record = self._running
        if record is None or record.state == "open":
            return None
        check_payload(record, once)
        if record.state == "unknown":
            raise OutcomeUnknownError(
                self._key,
                f"it was begun by {_who(record)}, which died; whether it had its effect is to be "
                "said with store.resolve_run(key, result=...) or store.resolve_run(key, "
                "repeat=True)",
            )
        return None if record.state == "running" else record


def check_payload(record: RunRecord, once: Once) -> None:
    """Make sure that a run is the one that is asked for.

    :raises PayloadMismatchError: if it was asked to do something else
    """
    if record.is_for_another(once.payload):
        raise PayloadMismatchError(once.key, "the key was used before, with another payload")


def _who(record: RunRecord | None) -> str:
    if record is None:
        return "another process"
    told = record.lease.metadata
    return f"process {told.get('pid', '?')} of {told.get('host', '?')}"


lines = Lines("run", RunLine)


def runs_of(home: Home) -> RunProvider:
    """Return the runs of a scope's store.

    :raises CapabilityNotSupportedError: if it has none
    """
    provider: RunProvider = provider_of("runs", home.store())
    return provider
