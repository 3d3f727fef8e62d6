"""Keeps what a process knows of a circuit and what its store knows of it in step.

Everything that happens is first noted in the snapshot (:class:`CircuitSync` has a method for each)
and then sent in the background by :meth:`CircuitSync.flush`, one request at a time. The answers,
and a refresh every ``refresh_interval``, are learnt by the snapshot.

Invariants:

- No error of the store leaves this module, except from :meth:`CircuitSync.ask`: a call is never
  failed by the store of its circuit breaker.
- At most one request that sends something runs in an event loop for a circuit, whichever scope has
  begun it, so that the store hears of things in their order.
- Each request is bounded, and what sends is shielded from cancellation, so that ``flush`` may be
  called from where a task ends.
- Whoever changes the snapshot tells of it: :meth:`CircuitSync._tell_since` is called after each
  change, by the scope in which it came about.

While the store fails (``Contact.failed``), nothing is sent but by the refresh, which goes on, and
sends everything when the store answers again. A quorum is then 1: nobody can confirm what this
process sees.
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
"""How long before the end of an open time the store is asked, to learn whether it answers."""
WORTH_LOOKING_SECONDS = 1.0
"""Shorter open times are not looked to the end of."""
RESETS_PER_SUCCESS = 3
"""How often a reset is tried while other processes change the circuit."""

Answer = TypeVar("Answer")
Request = Literal["get_state", "force_open", "force_close", "reset_circuit"]


@define(eq=False)
class Contact:
    """How it stands with the store of a circuit; shared by the scopes of an event loop.

    The store was asked at ``asked_at`` and is to be asked again at ``ask_at``, both by the wall
    clock; before the first time they are no times at all. ``first_read`` and ``sending`` are set
    while a read of the first call, or a request that sends something, is in flight, and are fired
    at its end; ``refreshing`` tells that a refresh is. The oldest request in flight has waited
    since ``waiting_since``, by the event loop's clock. ``failed`` tells how the last one ended.
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
        """Whether the store was asked at all."""
        return self.asked_at != math.inf


@define(eq=False)
class CircuitSync:
    """The snapshot of a circuit and its store, for one scope or for the process.

    :param spawn: runs something in the background
    :param host: gets the events

    ``_finish_by`` is when, by the event loop's clock, the scope waits no longer for anything to be
    sent. ``_looks_ahead`` tells that the background waits for the end of an open time.
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
        self._tell_since(before)
        self._send_soon()

    def note_success(self) -> None:
        """Clear the count of a closed circuit here at once, and in the store soon."""
        before = self.snapshot.state
        self.snapshot.reset_failures(now_ms())
        self._tell_since(before)
        self._send_soon()

    def note_verdict(self, nonce: str, *, succeeded: bool | None) -> None:
        """Settle a probe here at once, and in the store soon; ``None`` returns it unused."""
        before = self.snapshot.state
        self.snapshot.settle_probe(nonce, succeeded=succeeded, policy=self.policy, now_ms=now_ms())
        self._tell_since(before)
        self._send_soon()

    def claim_locally(self, nonce: str, lease_ms: int, *, local: bool) -> ProbeReply:
        """Grant or refuse a probe by what is known here.

        :param local: whether the store was not asked for it
        """
        before = self.snapshot.state
        limit = self.policy.half_open_probes
        reply = self.snapshot.claim_probe(nonce, lease_ms, limit, now_ms(), local=local)
        self._tell_since(before)
        return reply

    def refusal(self) -> ProbeReply:
        """Return the answer to a claim that is not granted."""
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

    def look_again(self) -> None:
        """Ask the store in the background."""
        self._note_asked()
        self.spawn(self.refresh)

    async def refresh(self) -> None:
        """Look at what the store knows, and send what it does not; never raises its errors."""
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
            # A circuit that the store has forgotten is closed, unless something newer came since.
            self.learn(state or CircuitBreakerState(version=known))
        await self.flush()

    async def ask(self, request: Request) -> CircuitBreakerState:
        """Ask the store for the state, or to set it by hand, and believe the answer at once.

        :raises PersistenceError: if the store fails
        """
        known = self.snapshot.stored.version
        state: CircuitBreakerState | None = await getattr(self.store, request)(self.name)
        self.learn(state or CircuitBreakerState(version=known))
        return state or CircuitBreakerState()

    async def ask_for_probe(self, nonce: str, lease_ms: int, bound: float) -> ProbeReply | None:
        """Claim a probe of the store.

        :param bound: how many seconds the request may take
        :returns: ``None`` if the store failed, so that it must be decided without the store
        """
        limit = self.policy.half_open_probes
        try:
            request = self.store.claim_probe(self.name, nonce, lease_ms, limit)
            reply = await self._bounded(request, bound)
        except TimeoutError as error:
            # It may have been granted, so there is no probe: the fleet could have too many.
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
        """Return whether the store is known to fail, or lets a request wait for long."""
        contact = self.contact
        return contact.failed or monotonic() - contact.waiting_since > SLOW_SECONDS

    def learn(self, stored: CircuitBreakerState) -> None:
        """Take over what the store showed."""
        before = self.snapshot.state
        self.snapshot.learn(stored, self.policy, self._quorum(), now_ms())
        self._tell_since(before)

    async def flush(self) -> None:
        """Tell the store what it does not know; never raises for a store that fails.

        Shielded from cancellation and bounded, so that it may be called from where a task ends.
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
        """Tell the store what it does not know, for the last time.

        :param patience: the seconds for that, after which what runs in the background ends, too
        """
        self._finish_by = monotonic() + patience
        await self.flush()

    def _send_soon(self) -> None:
        if self.contact.sending is None and not self.contact.failed:
            self.spawn(self.flush)

    async def _send(self) -> None:
        """Send one of the things that the store does not know."""
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

        Another process may count one meanwhile: it is cleared, too, unless it came later.
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
            # The store was away for so long that they do not count any more.
            return await self.store.get_state(self.name)
        report = self.policy._report(
            snapshot.reporter, count, snapshot.stored.open_count, self.policy.quorum
        )
        try:
            return await self.store.count_failures(self.name, report)
        except PersistenceError as error:
            # After a timeout the store may have counted them, and to count twice would be worse.
            if error.retryable and not isinstance(error, TimeoutError):
                snapshot.put_back_failures(count)
            raise

    def _tell_since(self, before: CircuitBreakerState) -> None:
        """Tell of a change of the state, and look to the end of an open time."""
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
            look = functools.partial(self._look_again_in, seconds - LOOK_AHEAD_SECONDS)
            self._looks_ahead = self.spawn(look, brief=False)

    async def _look_again_in(self, seconds: float) -> None:
        """Find out whether the store answers before the next call must ask it for a probe."""
        try:
            await anyio.sleep(seconds)
        finally:
            self._looks_ahead = False
        self._note_asked()
        await self.refresh()

    async def _bounded(self, request: Awaitable[Answer], bound: float) -> Answer:
        """Await a request to the store for so many seconds, and note how long it has been."""
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
        """Guard locally from now on, and tell so once."""
        if not self.contact.failed:
            self.contact.failed = True
            log_warning(
                "the store of circuit %r failed; guarding it locally", self.name, error=error
            )
            if self.host.observed:
                self.host.emit(CircuitStoreFailed(self.host.name, self.name, error))

    def _note_answered(self) -> None:
        """Guard together with the others again, and tell so once."""
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
