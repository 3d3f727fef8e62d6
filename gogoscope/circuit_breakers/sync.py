"""Keeps what a process knows of a circuit and what the store knows of it in step.

Everything that the store must know is noted in the snapshot and sent by :meth:`CircuitLink.flush`;
its replies, and a refresh every ``refresh_interval``, replace the snapshot. No error of the store
gets out of here: while it fails, the snapshot alone is a local circuit breaker.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable
from typing import Literal, TypeVar

import anyio

from gogoscope._core.background import Observer, Spawn
from gogoscope._core.clock import clock_here, monotonic
from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.snapshot import Snapshot
from gogoscope.circuit_breakers.view import CircuitView, now_ms
from gogoscope.exceptions import PersistenceError
from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
)
from gogoscope.persistence.rules import circuit_breakers as circuit_rules

FIRST_READ_SECONDS = 0.5
STORE_SECONDS = 1.0
SLOW_SECONDS = 0.5
LOOK_AHEAD_SECONDS = 0.6
WORTH_LOOKING_SECONDS = 1.0
RESETS_PER_SUCCESS = 3

Answer = TypeVar("Answer")
Request = Literal["get_state", "force_open", "force_close", "reset_circuit"]


class CircuitLink(CircuitView):
    """A circuit's snapshot and its store.

    :param spawn: runs something in the background
    :param host: gets the events
    """

    __slots__ = ("_finish_by", "_looks_ahead", "spawn", "store")

    def __init__(
        self,
        policy: CircuitPolicy,
        name: str,
        store: CircuitBreakerStateProvider,
        snapshot: Snapshot,
        spawn: Spawn,
        host: Observer,
    ) -> None:
        super().__init__(policy, name, snapshot, host)
        self.store = store
        self.spawn = spawn
        self._finish_by = math.inf
        self._looks_ahead = False

    def change(self, state: CircuitBreakerState) -> None:
        """Make a state the one that calls are judged by, and look to the end of an open time."""
        super().change(state)
        seconds = self._open_seconds()
        if seconds >= WORTH_LOOKING_SECONDS and not self._looks_ahead:
            look = functools.partial(self._look_again_in, seconds - LOOK_AHEAD_SECONDS)
            self._looks_ahead = self.spawn(look, brief=False)

    def note_failures(self, count: int) -> None:
        """Count failures here at once, and in the store soon."""
        snapshot = self.snapshot
        snapshot.unsent += count
        self.change(self.counted(snapshot.state, count))
        self._send_soon()

    def note_success(self) -> None:
        """Clear the count of a closed circuit here at once, and in the store soon."""
        snapshot = self.snapshot
        snapshot.unsent = 0
        snapshot.succeeded_ms = now_ms()
        self.change(circuit_rules.cleared(snapshot.state, snapshot.succeeded_ms))
        self._send_soon()

    def note_verdict(self, nonce: str, *, succeeded: bool | None) -> None:
        """Settle a probe here at once, and in the store soon; ``None`` gives its place back."""
        snapshot = self.snapshot
        open_ms = self.policy.open_ms(snapshot.state.open_count)
        after: CircuitBreakerState | None
        if succeeded is None:
            after, _ = circuit_rules.return_probe(snapshot.state, now_ms(), nonce)
        else:
            after, _ = circuit_rules.settle_probe(
                snapshot.state,
                now_ms(),
                nonce,
                succeeded=succeeded,
                success_threshold=self.policy.success_threshold,
                open_ms=open_ms,
            )
        if after is not None and after is not snapshot.state:
            self.change(after)
            if after.state == "closed":
                snapshot.succeeded_ms = now_ms()
        if nonce in snapshot.local_probes:
            snapshot.local_probes.discard(nonce)
        else:
            snapshot.verdicts.append((nonce, succeeded, open_ms))
        self._send_soon()

    def look_again(self) -> None:
        """Ask the store in the background."""
        self._asked()
        self.spawn(self.refresh)

    async def read_first(self) -> None:
        """Ask the store before the first call of this process, for at most half a second."""
        snapshot = self.snapshot
        if snapshot.first_read is not None:
            await snapshot.first_read.wait()
            return
        read = snapshot.first_read = anyio.Event()
        try:
            with anyio.fail_after(FIRST_READ_SECONDS):
                state = await self.store.get_state(self.name)
            if state is not None:
                self.learn(state)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self.note_store_failed(error)
        finally:
            read.set()
            snapshot.first_read = None
        self._asked()

    async def refresh(self) -> None:
        """Look at what the store knows; never raises for a store that fails."""
        snapshot = self.snapshot
        if snapshot.refreshing:
            return
        known = snapshot.stored.version
        snapshot.refreshing = True
        try:
            state = await self.bounded(self.store.get_state(self.name), STORE_SECONDS)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self.note_store_failed(error)
            return
        finally:
            snapshot.refreshing = False
        self.note_store_answered()
        if not snapshot.dirty and snapshot.sending is None:
            # If something came since, that is newer than nothing.
            self.learn(state or CircuitBreakerState(version=known))
        await self.flush()

    async def finish(self, patience: float) -> None:
        """Tell the store what it does not know, for the last time.

        :param patience: the seconds for that, after which what runs in the background ends, too
        """
        self._finish_by = monotonic() + patience
        await self.flush()

    async def flush(self) -> None:
        """Tell the store what it does not know; never raises for a store that fails.

        Shielded from cancellation and bounded, so that it may be called from where a task ends.
        """
        snapshot = self.snapshot
        while snapshot.dirty and (left := self._finish_by - monotonic()) > 0:
            bound = min(STORE_SECONDS, left)
            if snapshot.sending is not None:
                with anyio.move_on_after(bound, shield=True) as patience:
                    await snapshot.sending.wait()
                if patience.cancelled_caught or snapshot.store_failed:
                    return
                continue
            sent = snapshot.sending = anyio.Event()
            try:
                with anyio.CancelScope(shield=True):
                    await self.bounded(self._send(), bound)
            except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
                self.note_store_failed(error)
                return
            finally:
                sent.set()
                snapshot.sending = None

    async def ask(self, request: Request) -> CircuitBreakerState:
        """Ask the store for the state, or to set it by hand, and believe the answer at once.

        :raises PersistenceError: if the store fails
        """
        known = self.snapshot.stored.version
        state: CircuitBreakerState | None = await getattr(self.store, request)(self.name)
        self.learn(state or CircuitBreakerState(version=known))
        return state or CircuitBreakerState()

    def store_is_slow(self) -> bool:
        """Return whether the store is known to fail, or lets a request wait for long."""
        snapshot = self.snapshot
        return snapshot.store_failed or monotonic() - snapshot.waiting_since > SLOW_SECONDS

    async def bounded(self, request: Awaitable[Answer], bound: float) -> Answer:
        """Await a request to the store for so many seconds, and note how long it has been."""
        snapshot = self.snapshot
        since = monotonic()
        snapshot.waiting_since = min(snapshot.waiting_since, since)
        try:
            with anyio.fail_after(bound):
                return await request
        finally:
            if snapshot.waiting_since == since:
                snapshot.waiting_since = math.inf

    async def _look_again_in(self, seconds: float) -> None:
        """Find out whether the store answers before the next call must ask it for a probe."""
        try:
            await anyio.sleep(seconds)
        finally:
            self._looks_ahead = False
        self._asked()
        await self.refresh()

    def _open_seconds(self) -> float:
        state = self.snapshot.state
        until_ms = state.open_until_ms or 0 if state.state == "open" else 0
        return (until_ms - now_ms()) / 1000

    def _asked(self) -> None:
        snapshot = self.snapshot
        snapshot.asked_at = clock_here().wall()
        snapshot.ask_at = snapshot.asked_at + self.policy.refresh_interval

    def _send_soon(self) -> None:
        if self.snapshot.sending is None and not self.snapshot.store_failed:
            self.spawn(self.flush)

    async def _send(self) -> None:
        """Send one of the things that the store does not know, the oldest kind first."""
        snapshot = self.snapshot
        state: CircuitBreakerState | None
        if snapshot.verdicts:
            nonce, succeeded, open_ms = snapshot.verdicts[0]
            if succeeded is None:
                await self.store.return_probe(self.name, nonce)
                state = await self.store.get_state(self.name)
            else:
                state = await self.store.settle_probe(
                    self.name,
                    nonce,
                    succeeded=succeeded,
                    success_threshold=self.policy.success_threshold,
                    open_ms=open_ms,
                )
            snapshot.verdicts.popleft()
        elif snapshot.succeeded_ms is not None:
            state = await self._send_reset(snapshot.succeeded_ms)
        else:
            state = await self._send_failures()
        self.note_store_answered()
        if state is None:
            state = await self.store.get_state(self.name)
        if state is not None:
            self.learn(state)

    async def _send_reset(self, succeeded_ms: int) -> CircuitBreakerState:
        """Clear the failures that came before a success.

        Another process may count one meanwhile: it is cleared, too, unless it came later.
        """
        snapshot = self.snapshot
        state = snapshot.stored
        for _ in range(RESETS_PER_SUCCESS):
            if not _failed_before(state, succeeded_ms):
                break
            reset = await self.store.reset_failures(self.name, state.version)
            if reset is not None:
                state = reset
                break
            state = await self.store.get_state(self.name) or CircuitBreakerState()
        if snapshot.succeeded_ms == succeeded_ms:
            snapshot.succeeded_ms = None
        return state

    async def _send_failures(self) -> CircuitBreakerState | None:
        snapshot = self.snapshot
        count, snapshot.unsent = snapshot.unsent, 0
        window_ms = self.policy.window_ms()
        last_ms = snapshot.state.last_failure_ms or 0
        if window_ms is not None and now_ms() - last_ms > window_ms:
            # The store was away for so long that they do not count any more.
            return await self.store.get_state(self.name)
        report = self.report(count, snapshot.stored.open_count, self.policy.quorum)
        try:
            return await self.store.count_failures(self.name, report)
        except PersistenceError as error:
            if error.retryable and not isinstance(error, TimeoutError):
                snapshot.unsent += count
            raise


def _failed_before(state: CircuitBreakerState, time_ms: int) -> bool:
    return (
        state.state == "closed"
        and state.failure_count > 0
        and (state.last_failure_ms or 0) <= time_ms
    )
