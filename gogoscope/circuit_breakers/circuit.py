"""A circuit at work: which calls it admits, and what the end of a call changes.

A call first gets a permit. :meth:`Circuit.admit_now` returns one if the circuit is closed; the
snapshot is enough to know that. If it is not, :meth:`Circuit.admit` makes the call a half-open
probe, or rejects it. When the call has ended, exactly one of ``returned``, ``raised``, ``failed``
and ``abandoned`` is called with the permit. None of them suspends: the store is told in the
background.

The scopes of an event loop share what is known of a circuit (:class:`SharedCircuit`). It has three
parts, and each is changed by one class only:

- ``snapshot``, the state and what is still to be sent: by its own methods;
- ``contact``, whether the store answers, and when it is asked again: by ``CircuitSync``;
- ``claims``, the probes that are being claimed or kept: by ``Probes``.

Each scope has a :class:`Circuit` of its own, with its policy, its background and its observers.
"""

from __future__ import annotations

import threading
from typing import Any

from attrs import define, evolve, field

from gogoscope._core.background import Observer, Spawn
from gogoscope._core.callables import is_misuse
from gogoscope._core.clock import clock_here, monotonic
from gogoscope._core.errors import is_a
from gogoscope.circuit_breakers.contact import Contact
from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.probes import BUSY_SECONDS, ProbeClaim, ProbeClaims, Probes
from gogoscope.circuit_breakers.snapshot import Permit, Snapshot
from gogoscope.circuit_breakers.sync import CircuitSync, Term, now_ms
from gogoscope.events import CircuitCallRejected, CircuitProbeEnded, CircuitProbeStarted, new_id
from gogoscope.exceptions import CircuitOpenError
from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerStateProvider,
)
from gogoscope.persistence.records.circuit_breakers import writes
from gogoscope.persistence.rules import circuit_breakers as circuit_rules
from gogoscope.retry import AttemptTimeoutError


@define(eq=False)
class SharedCircuit:
    """What the scopes of one event loop share of one circuit in one store."""

    snapshot: Snapshot = field(factory=Snapshot)
    contact: Contact = field(factory=Contact)
    claims: ProbeClaims = field(factory=ProbeClaims)


class Circuit:
    """One policy at work on one circuit of one store, for one scope or for the process.

    :param name: the name of the circuit
    :param store: keeps its state
    :param shared: what the scopes of this event loop share of it
    :param spawn: runs work in the background
    :param host: receives the events
    :param term: when the scope ends
    :param lasting: whether it belongs to a thread and not to a scope, and is in the memory of this
        process

    ``probe_numbers`` are those of the probes that were told of, by nonce. As long as ``seen``
    is the last of the process's ``writes``, the snapshot of a lasting circuit is what the
    memory has.
    """

    __slots__ = (
        "__weakref__",
        "contact",
        "name",
        "plain",
        "policy",
        "probe_numbers",
        "probes",
        "seen",
        "shared",
        "snapshot",
        "sync",
        "thread",
        "timed",
    )

    def __init__(
        self,
        policy: CircuitPolicy,
        name: str,
        store: CircuitBreakerStateProvider,
        shared: SharedCircuit,
        spawn: Spawn,
        host: Observer,
        term: Term | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        self.policy = policy
        self.name = name
        self.shared = shared
        self.snapshot = shared.snapshot
        self.contact = shared.contact
        self.sync = CircuitSync(
            policy,
            name,
            store,
            self.snapshot,
            self.contact,
            spawn,
            host,
            term or Term(),
            alone=lasting,
        )
        self.probes = Probes(self.sync, shared.claims)
        self.seen: object = None
        self.probe_numbers: dict[str, int] = {}
        self.thread = threading.get_ident()
        # Copied from the policy, since each call needs them.
        self.plain = policy._plain
        self.timed = policy.slow_call is not None

    def admit_now(self) -> Permit | None:
        """Admit a call through a closed circuit; ``None`` if that needs :meth:`admit`."""
        contact, snapshot = self.contact, self.snapshot
        # Not the event loop's clock, whose reading costs as much as all the rest.
        now = clock_here().elapsed()
        if now >= contact.ask_at and not (contact.asked and self.sync.refresh_soon()):
            return None
        if not (snapshot.calm or snapshot.state.state == "closed"):
            return None
        return self._permit() if self.timed else snapshot.permit

    def catch_up(self) -> None:
        """Learn what others have written to the memory of this process."""
        last = writes.last
        if self.seen is not last:
            if self.contact.asked:
                self.sync.refresh_soon()
            self.seen = last

    async def admit(self) -> Permit:
        """Admit a call, as a half-open probe if need be.

        :raises CircuitOpenError: if the call must not be made
        """
        while not self.contact.asked:
            await self.sync.read_first()
        if clock_here().elapsed() >= self.contact.ask_at and not self.sync.refresh_soon():
            self.sync.note_asked()
            await self.sync.refresh()  # there is no background: the scope has ended
        permit = self.admit_now()
        if permit is not None:
            return permit
        kept = self.probes.take_kept()
        if kept is not None:
            return self._start_probe(kept)
        self._reject_unless_probing()
        return await self._claim_probe()

    def begun_now(self, permit: Permit) -> Permit:
        """Return a permit for a call that begins only now, after it had waited."""
        return evolve(permit, began=monotonic()) if self.timed else permit

    def returned(self, permit: Permit, value: Any) -> None:
        """Note that a call returned a value; the policy says whether that is a failure."""
        if self.plain and self.snapshot.calm and permit.probe is None:
            return
        try:
            failed = self.policy._fails(value)
        except BaseException:
            self.abandoned(permit)
            raise
        if failed:
            self.failed(permit)
        else:
            self._succeeded(permit)

    def raised(self, permit: Permit, error: Exception) -> None:
        """Note that a call raised an error; the policy says whether that is a failure.

        The timeout of an attempt always is one; a call with wrong arguments never is.
        """
        try:
            counts = is_a(error, AttemptTimeoutError) or (
                not is_misuse(error) and self.policy._counts(error)
            )
        except BaseException:
            self.abandoned(permit)
            raise
        if counts:
            self.failed(permit)
        else:
            self.abandoned(permit)

    def failed(self, permit: Permit) -> None:
        """Note that a call failed, unless it began before the circuit changed."""
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=False)
        elif permit.generation is self.snapshot.permit.generation:
            if self.policy._judges_rates:
                self._judge(permit, failed=True)
            else:
                self.sync.note_failures(1)

    def abandoned(self, permit: Permit) -> None:
        """Note that a call neither succeeded nor failed; a probe is returned."""
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=None)

    @property
    def store_failed(self) -> bool:
        """Whether the store failed when it was last asked."""
        return self.contact.failed

    def is_idle(self, seconds: float) -> bool:
        """Return whether it is closed, has nothing to send, and was not used for so long.

        The calls that it has counted for a rate have left their window by then. It may have a call
        in flight all the same.
        """
        snapshot, contact = self.snapshot, self.contact
        if snapshot.state.state != "closed" or snapshot.dirty:
            return False
        longest = max([seconds, *snapshot.rates])
        return not self.probes.any and clock_here().elapsed() - contact.ask_at > longest

    @property
    def left_to_call(self) -> bool:
        """Whether the call itself must :meth:`send_left` what its end has changed."""
        return self.sync.left_to_call

    async def send_left(self) -> None:
        """Send what a call left to be sent, whose scope has ended; raise no error of the store.

        It is bounded and shielded from cancellation.
        """
        await self.sync.send_left()

    async def finish(self) -> None:
        """Send what is still to be sent when the scope ends; errors of the store are not raised."""
        self.probes.return_kept()
        await self.sync.flush()

    def _permit(self, probe: str | None = None) -> Permit:
        began = monotonic() if self.timed else 0.0
        return Permit(self.snapshot.permit.generation, began, probe)

    def _succeeded(self, permit: Permit) -> None:
        snapshot = self.snapshot
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=not self._is_slow(permit))
        elif permit.generation is not snapshot.permit.generation:
            return
        elif self.policy._judges_rates:
            self._judge(permit, failed=False)
        elif snapshot.state.failure_count and self.policy.window is None:
            self.sync.note_success()

    def _judge(self, permit: Permit, *, failed: bool) -> None:
        """Count a call of this process, and report its failures if their share is too high."""
        slow = self._is_slow(permit)
        excess = self.snapshot.judge(self.policy, clock_here().elapsed(), failed=failed, slow=slow)
        if excess:
            self.sync.note_failures(excess)

    def _is_slow(self, permit: Permit) -> bool:
        return self.timed and self.policy._is_slow(monotonic() - permit.began)

    def _start_probe(self, claim: ProbeClaim) -> Permit:
        host = self.sync.host
        if host.observed:
            number = self.probe_numbers[claim.nonce] = new_id()
            host.emit(CircuitProbeStarted(host.name, self.name, id=number))
        self.probes.renew_while_running(claim)
        return self._permit(claim.nonce)

    def _settle(self, nonce: str, *, succeeded: bool | None) -> None:
        self.probes.ended(nonce)
        host = self.sync.host
        number = self.probe_numbers.pop(nonce, 0)
        if host.observed:
            host.emit(CircuitProbeEnded(host.name, self.name, succeeded, id=number))
        self.sync.note_verdict(nonce, succeeded=succeeded)

    def _reject_unless_probing(self) -> None:
        """Raise if it is known without asking the store that a probe would be refused."""
        state = self.policy._limited(self.snapshot.state)
        time_ms = now_ms()
        if state.state == "forced-open":
            raise self._rejected(self.policy.refresh_interval)
        if state.state == "open" and (state.open_until_ms or 0) > time_ms:
            raise self._rejected(((state.open_until_ms or 0) - time_ms) / 1000)
        limit = self.policy.half_open_probes
        lease_ms = round(self.policy._lease * 1000)
        _, reply = circuit_rules.claim_probe(state, time_ms, "", lease_ms, limit)
        if self.probes.in_flight >= limit or not reply.granted:
            raise self._rejected(self._until_probes_end())

    async def _claim_probe(self) -> Permit:
        claim = await self.probes.claim()
        if claim.reply is None:
            raise self._rejected(BUSY_SECONDS)
        if claim.reply.granted:
            return self._start_probe(claim)
        if claim.reply.state.state == "closed":
            return self._permit()
        raise self._rejected(self._until_probes_end())

    def _rejected(self, retry_after: float) -> CircuitOpenError:
        """Return the error of a rejected call, and report the rejection."""
        host = self.sync.host
        self.probes.note_rejected()
        if host.observed:
            host.emit(CircuitCallRejected(host.name, self.name, retry_after))
        return CircuitOpenError(self.name, retry_after)

    def _until_probes_end(self) -> float:
        state, time_ms = self.policy._limited(self.snapshot.state), now_ms()
        ends = [*state.probes.values(), state.open_until_ms or 0]
        later = [end - time_ms for end in ends if end > time_ms]
        return min(later) / 1000 if later else self.policy.refresh_interval
