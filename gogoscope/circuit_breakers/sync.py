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
from typing import Literal

import anyio
from attrs import define, evolve, field

from gogoscope._core.background import Observer, Spawn
from gogoscope._core.clock import clock_here, monotonic
from gogoscope.circuit_breakers.contact import Contact
from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.snapshot import Snapshot
from gogoscope.events import (
    CircuitStateChanged,
    CircuitStoreFailed,
    CircuitStoreRecovered,
    log_info,
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
LOOK_AHEAD_SECONDS = 0.6
"""How long before the end of an open time the store is asked whether it still answers."""
WORTH_LOOKING_SECONDS = 1.0
"""The shortest open time before whose end the store is asked."""
BEFORE_ALL_TIMES_MS = 10**12
"""Added to the time of this machine, which began lately, since others wrote before that."""
RESETS_PER_SUCCESS = 3
"""How often a reset is tried while other processes change the circuit."""

Request = Literal["get_state", "force_open", "force_close", "reset_circuit"]


@define(eq=False)
class Term:
    """Until when work may be sent for a scope: it ``ends`` on the clock of ``monotonic()``."""

    ends: float = math.inf


@define(eq=False)
class CircuitSync:
    """Changes the snapshot of a circuit and talks to its store, for one scope or for the process.

    :param spawn: runs work in the background
    :param host: receives the events
    :param term: when the scope ends
    :param alone: whether no other process ever learns of the circuit

    ``left_to_call`` is true if something is to be sent and there is no background, since the scope
    has ended: then the call sends it itself (:meth:`send_left`). ``_sends_soon`` is true while work
    in the background is about to send.
    """

    policy: CircuitPolicy
    name: str
    store: CircuitBreakerStateProvider
    snapshot: Snapshot
    contact: Contact
    spawn: Spawn
    host: Observer
    term: Term = field(factory=Term)
    alone: bool = False
    left_to_call: bool = field(init=False, default=False)
    _sends_soon: bool = field(init=False, default=False)

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
        reply = self.snapshot.claim_probe(nonce, lease_ms, self.policy, now_ms(), local=local)
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
            self.note_failed(error)
        finally:
            read.set()
            contact.first_read = None
        self.note_asked()

    def refresh_soon(self) -> bool:
        """Refresh in the background; return ``False`` if there is none."""
        if not self.spawn(self.refresh):
            return False
        self.note_asked()
        return True

    async def refresh(self) -> None:
        """Read the state from the store, then send what is still to be sent."""
        snapshot, contact = self.snapshot, self.contact
        if contact.refreshing:
            return
        known = snapshot.stored
        contact.refreshing = True
        try:
            state = await contact.bounded(self.store.get_state(self.name), STORE_SECONDS)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self.note_failed(error)
            return
        finally:
            contact.refreshing = False
        self.note_answered()
        if contact.sending is None:
            if state is not None and snapshot.dirty and _changed(known, state):
                snapshot.forget_counts()
            if not snapshot.dirty:
                # A circuit that is not in the store is closed, unless something has happened since.
                self.learn(state or CircuitBreakerState(version=known.version))
        await self.flush()

    async def ask(self, request: Request) -> CircuitBreakerState:
        """Ask the store for the state, or to set it by hand, and follow the answer at once.

        The state includes what this process has not sent by then. What happened before the circuit
        is set is not sent after that.

        :raises PersistenceError: if the store fails
        """
        if request == "get_state":
            await self.flush()
            state: CircuitBreakerState | None = await self.store.get_state(self.name)
        else:
            async with self.contact.turn_to_send():
                state = await getattr(self.store, request)(self.name)
                self.snapshot.begin_anew()
        self.note_answered()
        state = state or CircuitBreakerState()
        # What is not in the store has no version.
        self.learn(state if state.version else evolve(state, version=self.snapshot.stored.version))
        return state

    def learn(self, stored: CircuitBreakerState) -> None:
        """Take over an answer of the store."""
        before = self.snapshot.state
        wall_ms, steady_ms = math.floor(clock_here().wall() * 1000), now_ms()
        self.snapshot.learn(stored, self.policy, self._quorum(), steady_ms, wall_ms - steady_ms)
        self._report_change(before)

    async def flush(self) -> None:
        """Send everything that is still to be sent; errors of the store are not raised.

        It is bounded and shielded from cancellation.
        """
        self._sends_soon = False
        snapshot, contact = self.snapshot, self.contact
        while snapshot.dirty and (left := self.term.ends - monotonic()) > 0:
            bound = min(STORE_SECONDS, left)
            if contact.sending is not None:
                with anyio.move_on_after(bound, shield=True) as patience:
                    await contact.sending.wait()
                if patience.cancelled_caught or contact.failed:
                    return
                continue
            try:
                async with contact.turn_to_send():
                    with anyio.CancelScope(shield=True):
                        await contact.bounded(self._send(), bound)
            except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
                self.note_failed(error)
                return

    async def send_left(self) -> None:
        """Send what a call left to be sent after its scope had ended."""
        self.left_to_call = False
        self.term = Term()
        await self.flush()

    def _send_soon(self) -> None:
        if self.contact.sending is None and not self.contact.failed and not self._sends_soon:
            self._sends_soon = True
            spawned = self.spawn(self.flush)
            self._sends_soon = spawned and self._sends_soon
            self.left_to_call = not spawned

    async def _send(self) -> None:
        """Send one thing that is still to be sent."""
        snapshot = self.snapshot
        if snapshot.verdicts:
            state = await self._send_verdict()
        elif snapshot.succeeded_ms is not None:
            state = await self._send_success()
        else:
            state = await self._send_failures()
        self.note_answered()
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

    async def _send_success(self) -> CircuitBreakerState | None:
        """Clear the failures that came before a success, or close what a local probe closed.

        A failure that another process counts meanwhile is cleared, too, unless it came later.
        """
        snapshot = self.snapshot
        succeeded_ms = snapshot.succeeded_ms
        assert succeeded_ms is not None
        state: CircuitBreakerState | None = snapshot.stored
        for _ in range(RESETS_PER_SUCCESS):
            if not snapshot.success_tells(self.policy):
                break
            if snapshot.stored.state != "closed":
                await self.store.record_success(self.name)
                state = None
                break
            state = await self.store.reset_failures(self.name, snapshot.stored.version)
            if state is not None:
                break
            self.learn(await self.store.get_state(self.name) or CircuitBreakerState())
            state = snapshot.stored
        snapshot.sent_success(succeeded_ms)
        return state

    async def _send_failures(self) -> CircuitBreakerState | None:
        snapshot = self.snapshot
        count = snapshot.take_failures()
        window_ms = self.policy._window_ms()
        last_ms = snapshot.state.last_failure_ms or 0
        if window_ms is not None and now_ms() - last_ms > window_ms:
            # The store failed for so long that they have left the window.
            return await self.store.get_state(self.name)
        began_ms = snapshot.learned.window_start_ms
        seen = window_ms is not None and now_ms() - began_ms >= window_ms
        report = self.policy._report(
            count,
            snapshot.stored.open_count,
            self.policy.quorum,
            snapshot.stored.window_start_ms if seen else None,
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
            if self.alone and state.state == "open":
                _tell_alone(self.name)
        if state.state != "open" or self.contact.looks_ahead:
            return
        seconds = ((self.policy._limited(state).open_until_ms or 0) - now_ms()) / 1000
        if seconds >= WORTH_LOOKING_SECONDS:
            look = functools.partial(self._refresh_in, seconds - LOOK_AHEAD_SECONDS)
            self.contact.looks_ahead = self.spawn(look, brief=False)

    async def _refresh_in(self, seconds: float) -> None:
        """Learn whether the store answers before the next call needs a probe from it."""
        try:
            await anyio.sleep(seconds)
        finally:
            self.contact.looks_ahead = False
        self.note_asked()
        await self.refresh()

    def _quorum(self) -> int:
        return 1 if self.contact.failed else self.policy.quorum

    def note_asked(self) -> None:
        """Note that the store is asked now, so that it need not be asked again at once."""
        self.contact.asked = True
        self.contact.ask_at = clock_here().elapsed() + self.policy.refresh_interval

    def note_failed(self, error: Exception) -> None:
        """Guard locally from now on, and report that once."""
        if not self.contact.failed:
            self.contact.failed = True
            log_warning(
                "the store of circuit %r failed; guarding it locally", self.name, error=error
            )
            if self.host.observed:
                self.host.emit(CircuitStoreFailed(self.host.name, self.name, error))

    def note_answered(self) -> None:
        """Guard together with the fleet again, and report that once."""
        if self.contact.failed:
            self.contact.failed = False
            log_warning("the store of circuit %r answers again", self.name)
            if self.host.observed:
                self.host.emit(CircuitStoreRecovered(self.host.name, self.name))


def now_ms() -> int:
    """Return the milliseconds of a clock that nobody sets; never 0, which means "never"."""
    return BEFORE_ALL_TIMES_MS + math.floor(clock_here().elapsed() * 1000)


@functools.lru_cache(maxsize=1024)
def _tell_alone(name: str) -> None:
    """Log, once for each circuit, that nobody else learns of it."""
    log_info(
        "circuit %r opened outside a scope, in the memory of this process: no other process learns "
        "of it; call it in a scope with persistence=... to share it",
        name,
    )


def _changed(known: CircuitBreakerState, found: CircuitBreakerState) -> bool:
    """Return whether a circuit came into another state since it was known."""
    return known.version > 0 and (known.state, known.since_ms) != (found.state, found.since_ms)
