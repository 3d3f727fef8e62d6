"""Keeps the snapshot of a circuit and its store in step.

Each event is first noted in the snapshot, at once, and then sent by :meth:`CircuitSync.flush`, in
the background and one request at a time. Answers of the store, and a refresh after each
``refresh_interval``, go back into the snapshot.

Invariants:

- A call never fails because the store of its circuit breaker fails: no error of the store leaves
  this module, except from :meth:`CircuitSync.ask`, which people call by hand.
- At most one request that sends something is in flight for a circuit and event loop, whichever
  scope started it. So the store learns of events in their order.
- Every request is bounded, and those that send are shielded from cancellation. So ``flush`` may be
  called where a task ends.
- After each change of the snapshot, :meth:`CircuitSync._report_change` reports a new state.

While the store fails (``Contact.failed``), only the refresh goes on asking it. When the store
answers again, the refresh sends what is still to be sent. Meanwhile the quorum is 1, since no other
process can confirm the failures that this one sees.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable
from typing import Literal, TypeVar

import anyio
from attrs import define, field

from gogoscope._core.background import Observer, Spawn
from gogoscope._core.clock import clock_here, monotonic
from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.snapshot import Snapshot
from gogoscope.events import (
    CircuitStateChanged,
    CircuitStoreFailed,
    CircuitStoreRecovered,
    log_warning,
    notify,
)
from gogoscope.exceptions import PersistenceError
from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    ProbeReply,
)

FIRST_READ_SECONDS = 0.5
"""How long the first call of a process waits to learn the state of a circuit."""
STORE_SECONDS = 1.0
"""How long a request in the background may take."""
SLOW_SECONDS = 0.5
"""A store that lets a request wait for longer is treated as if it failed."""
LOOK_AHEAD_SECONDS = 0.6
"""How long before the end of an open time the store is asked whether it still answers."""
WORTH_LOOKING_SECONDS = 1.0
"""The shortest open time before whose end the store is asked."""
RESETS_PER_SUCCESS = 3
"""How often a reset is tried while other processes change the circuit."""

Answer = TypeVar("Answer")
Request = Literal["get_state", "force_open", "force_close", "reset_circuit"]


@define(eq=False)
class Contact:
    """Whether the store of a circuit answers; shared by the scopes of an event loop.

    The store was asked at ``asked_at``, and is to be asked again at ``ask_at``, both by the wall
    clock; they are infinite until it was asked once. ``first_read`` and ``sending`` are events
    while the first read, or a request that sends something, is in flight; they are set at its end.
    ``refreshing`` is true while a refresh is in flight. The oldest request in flight began at
    ``waiting_since``, by the event loop's clock. ``failed`` is true if the last request failed.
    """

    asked_at: float = math.inf
    ask_at: float = -math.inf
    first_read: anyio.Event | None = None
    sending: anyio.Event | None = None
    refreshing: bool = False
    waiting_since: float = math.inf
    failed: bool = False

    @property
    def asked(self) -> bool:
        """Whether the store was ever asked."""
        return self.asked_at != math.inf


@define(eq=False)
class CircuitSync:
    """Changes the snapshot of a circuit and talks to its store, for one scope or for the process.

    :param spawn: runs work in the background
    :param host: receives the events

    ``_finish_by`` is when the scope ends, by the event loop's clock: nothing is sent after it.
    ``_looks_ahead`` is true while work in the background waits for the end of an open time.
    """

    policy: CircuitPolicy
    name: str
    store: CircuitBreakerStateProvider
    snapshot: Snapshot
    contact: Contact
    spawn: Spawn
    host: Observer
    _finish_by: float = field(init=False, default=math.inf)
    _looks_ahead: bool = field(init=False, default=False)

    def note_failures(self, count: int) -> None:
        """Count failures here at once, and in the store soon."""
        before = self.snapshot.state
        self.snapshot.count_failures(count, self.policy, self._quorum(), now_ms())
        self._report_change(before)
        self._send_soon()

    def note_success(self) -> None:
        """Clear the count of a closed circuit here at once, and in the store soon."""
        before = self.snapshot.state
        self.snapshot.reset_failures(now_ms())
        self._report_change(before)
        self._send_soon()

    def note_verdict(self, nonce: str, *, succeeded: bool | None) -> None:
        """Settle a probe here at once, and in the store soon; ``None`` returns the probe."""
        before = self.snapshot.state
        self.snapshot.settle_probe(nonce, succeeded=succeeded, policy=self.policy, now_ms=now_ms())
        self._report_change(before)
        self._send_soon()

    def claim_locally(self, nonce: str, lease_ms: int, *, local: bool) -> ProbeReply:
        """Grant or refuse a probe without the store.

        :param local: whether the store was never asked for it
        """
        before = self.snapshot.state
        limit = self.policy.half_open_probes
        reply = self.snapshot.claim_probe(nonce, lease_ms, limit, now_ms(), local=local)
        self._report_change(before)
        return reply

    def refusal(self) -> ProbeReply:
        """Return the answer to a claim that is refused."""
        return ProbeReply(granted=False, state=self.snapshot.state)

    async def read_first(self) -> None:
        """Ask the store before the first call of this process, for at most half a second."""
        contact = self.contact
        if contact.first_read is not None:
            await contact.first_read.wait()
            return
        read = contact.first_read = anyio.Event()
        try:
            with anyio.fail_after(FIRST_READ_SECONDS):
                state = await self.store.get_state(self.name)
            if state is not None:
                self.learn(state)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self._note_failed(error)
        finally:
            read.set()
            contact.first_read = None
        self._note_asked()

    def refresh_soon(self) -> None:
        """Refresh in the background."""
        self._note_asked()
        self.spawn(self.refresh)

    async def refresh(self) -> None:
        """Read the state from the store, then send what is still to be sent."""
        snapshot, contact = self.snapshot, self.contact
        if contact.refreshing:
            return
        known = snapshot.stored.version
        contact.refreshing = True
        try:
            state = await self._bounded(self.store.get_state(self.name), STORE_SECONDS)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self._note_failed(error)
            return
        finally:
            contact.refreshing = False
        self._note_answered()
        if not snapshot.dirty and contact.sending is None:
            # A circuit that is not in the store is closed, unless something has happened since.
            self.learn(state or CircuitBreakerState(version=known))
        await self.flush()

    async def ask(self, request: Request) -> CircuitBreakerState:
        """Ask the store for the state, or to set it by hand, and follow the answer at once.

        :raises PersistenceError: if the store fails
        """
        known = self.snapshot.stored.version
        state: CircuitBreakerState | None = await getattr(self.store, request)(self.name)
        self.learn(state or CircuitBreakerState(version=known))
        return state or CircuitBreakerState()

    async def ask_for_probe(self, nonce: str, lease_ms: int, bound: float) -> ProbeReply | None:
        """Claim a probe of the store.

        :param bound: how many seconds the request may take
        :returns: ``None`` if the store failed, so that the decision is left to the caller
        """
        limit = self.policy.half_open_probes
        try:
            request = self.store.claim_probe(self.name, nonce, lease_ms, limit)
            reply = await self._bounded(request, bound)
        except TimeoutError as error:
            # The store may have granted it. To use it could mean one probe too many.
            self._note_failed(error)
            self.note_verdict(nonce, succeeded=None)
            return self.refusal()
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self._note_failed(error)
            return None
        self._note_answered()
        self.learn(reply.state)
        return reply

    def store_is_slow(self) -> bool:
        """Return whether the last request failed, or one in flight takes too long."""
        contact = self.contact
        return contact.failed or monotonic() - contact.waiting_since > SLOW_SECONDS

    def learn(self, stored: CircuitBreakerState) -> None:
        """Take over an answer of the store."""
        before = self.snapshot.state
        self.snapshot.learn(stored, self.policy, self._quorum(), now_ms())
        self._report_change(before)

    async def flush(self) -> None:
        """Send everything that is still to be sent; errors of the store are not raised.

        It is bounded and shielded from cancellation.
        """
        snapshot, contact = self.snapshot, self.contact
        while snapshot.dirty and (left := self._finish_by - monotonic()) > 0:
            bound = min(STORE_SECONDS, left)
            if contact.sending is not None:
                with anyio.move_on_after(bound, shield=True) as patience:
                    await contact.sending.wait()
                if patience.cancelled_caught or contact.failed:
                    return
                continue
            sent = contact.sending = anyio.Event()
            try:
                with anyio.CancelScope(shield=True):
                    await self._bounded(self._send(), bound)
            except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
                self._note_failed(error)
                return
            finally:
                sent.set()
                contact.sending = None

    async def finish(self, patience: float) -> None:
        """Send everything that is still to be sent, at the end of the scope.

        :param patience: the seconds that it may take; work in the background ends then, too
        """
        self._finish_by = monotonic() + patience
        await self.flush()

    def _send_soon(self) -> None:
        if self.contact.sending is None and not self.contact.failed:
            self.spawn(self.flush)

    async def _send(self) -> None:
        """Send one thing that is still to be sent."""
        snapshot = self.snapshot
        if snapshot.verdicts:
            state = await self._send_verdict()
        elif snapshot.succeeded_ms is not None:
            state = await self._send_success(snapshot.succeeded_ms)
        else:
            state = await self._send_failures()
        self._note_answered()
        if state is None:
            state = await self.store.get_state(self.name)
        if state is not None:
            self.learn(state)

    async def _send_verdict(self) -> CircuitBreakerState | None:
        verdict = self.snapshot.verdicts[0]
        state: CircuitBreakerState | None
        if verdict.succeeded is None:
            await self.store.return_probe(self.name, verdict.nonce)
            state = await self.store.get_state(self.name)
        else:
            state = await self.store.settle_probe(
                self.name,
                verdict.nonce,
                succeeded=verdict.succeeded,
                success_threshold=self.policy.success_threshold,
                open_ms=verdict.open_ms,
            )
        self.snapshot.sent_verdict()
        return state

    async def _send_success(self, succeeded_ms: int) -> CircuitBreakerState:
        """Clear the failures that came before a success.

        A failure that another process counts meanwhile is cleared, too, unless it came later.
        """
        state = self.snapshot.stored
        for _ in range(RESETS_PER_SUCCESS):
            if not _failed_before(state, succeeded_ms):
                break
            reset = await self.store.reset_failures(self.name, state.version)
            if reset is not None:
                state = reset
                break
            state = await self.store.get_state(self.name) or CircuitBreakerState()
        self.snapshot.sent_success(succeeded_ms)
        return state

    async def _send_failures(self) -> CircuitBreakerState | None:
        snapshot = self.snapshot
        count = snapshot.take_failures()
        window_ms = self.policy._window_ms()
        last_ms = snapshot.state.last_failure_ms or 0
        if window_ms is not None and now_ms() - last_ms > window_ms:
            # The store failed for so long that they have left the window.
            return await self.store.get_state(self.name)
        report = self.policy._report(
            snapshot.reporter, count, snapshot.stored.open_count, self.policy.quorum
        )
        try:
            return await self.store.count_failures(self.name, report)
        except PersistenceError as error:
            # After a timeout the store may have counted them. To count them twice would be worse.
            if error.retryable and not isinstance(error, TimeoutError):
                snapshot.put_back_failures(count)
            raise

    def _report_change(self, before: CircuitBreakerState) -> None:
        """Report a new state, and prepare for the end of an open time."""
        state = self.snapshot.state
        if state.state != before.state:
            host = self.host
            if host.observed:
                host.emit(CircuitStateChanged(host.name, self.name, before.state, state.state))
            notify(self.policy.on_state_change, self.name, before.state, state.state)
        if state.state != "open" or self._looks_ahead:
            return
        seconds = ((state.open_until_ms or 0) - now_ms()) / 1000
        if seconds >= WORTH_LOOKING_SECONDS:
            look = functools.partial(self._refresh_in, seconds - LOOK_AHEAD_SECONDS)
            self._looks_ahead = self.spawn(look, brief=False)

    async def _refresh_in(self, seconds: float) -> None:
        """Learn whether the store answers before the next call needs a probe from it."""
        try:
            await anyio.sleep(seconds)
        finally:
            self._looks_ahead = False
        self._note_asked()
        await self.refresh()

    async def _bounded(self, request: Awaitable[Answer], bound: float) -> Answer:
        """Await a request for at most ``bound`` seconds, and note since when it is in flight."""
        contact = self.contact
        since = monotonic()
        contact.waiting_since = min(contact.waiting_since, since)
        try:
            with anyio.fail_after(bound):
                return await request
        finally:
            if contact.waiting_since == since:
                contact.waiting_since = math.inf

    def _quorum(self) -> int:
        return 1 if self.contact.failed else self.policy.quorum

    def _note_asked(self) -> None:
        contact = self.contact
        contact.asked_at = clock_here().wall()
        contact.ask_at = contact.asked_at + self.policy.refresh_interval

    def _note_failed(self, error: Exception) -> None:
        """Guard locally from now on, and report that once."""
        if not self.contact.failed:
            self.contact.failed = True
            log_warning(
                "the store of circuit %r failed; guarding it locally", self.name, error=error
            )
            if self.host.observed:
                self.host.emit(CircuitStoreFailed(self.host.name, self.name, error))

    def _note_answered(self) -> None:
        """Guard together with the fleet again, and report that once."""
        if self.contact.failed:
            self.contact.failed = False
            log_warning("the store of circuit %r answers again", self.name)
            if self.host.observed:
                self.host.emit(CircuitStoreRecovered(self.host.name, self.name))


def now_ms() -> int:
    """Return the wall clock in milliseconds."""
    return math.floor(clock_here().wall() * 1000)


def _failed_before(state: CircuitBreakerState, time_ms: int) -> bool:
    return (
        state.state == "closed"
        and state.failure_count > 0
        and (state.last_failure_ms or 0) <= time_ms
    )
