"""What one process knows of a circuit: its state, and what is still to be sent to the store.

No call waits until the store knows how the call ended. A failure changes ``state`` at once, and is
noted to be sent. Later, the answer of the store replaces ``state``, and what is still to be sent is
counted on top of it. While the store fails, nothing replaces ``state``, and the snapshot alone
works as a local circuit breaker.

Invariants:

- Only the methods of a snapshot change it. They follow the rules in
  :mod:`gogoscope.persistence.rules.circuit_breakers`, as the stores do.
- ``stored`` is the last answer of the store, and never goes back to an older version. ``learned``
  is the same by the steady clock, and ``state`` is ``learned`` with everything on top that is still
  to be sent.
- When ``state`` changes its name ("closed", "open", ...), or a person sets the circuit, a new
  generation begins, and ``permit`` is replaced. A call whose permit is of an earlier generation
  began before that change, so its end changes nothing.
- Failures, a success and verdicts are kept until the store has answered. They are dropped earlier
  only if they no longer matter, or if sending them again could count them twice.

The scopes of an event loop share a snapshot, and their policies may differ; so the policy is a
parameter. So is the time: milliseconds of a clock that nobody sets. ``stored`` alone has the times
of the store's wall clock (see :mod:`gogoscope.circuit_breakers.times`).
"""

from __future__ import annotations

from collections import deque

from attrs import define, field, frozen

from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.rates import RateWindow
from gogoscope.circuit_breakers.times import on_steady_clock
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState, ProbeReply
from gogoscope.persistence.rules import circuit_breakers as circuit_rules


class Generation:
    """The time between two changes of a circuit's state, known by its identity."""

    __slots__ = ()


@frozen(eq=False)
class Permit:
    """Permission for one call.

    :param generation: the generation of the circuit when the call began
    :param began: when the call began, on the clock of ``monotonic()``; 0 if slow calls do not count
    :param probe: the nonce, if the call is a half-open probe
    """

    generation: Generation
    began: float = 0.0
    probe: str | None = None


@frozen
class Verdict:
    """How a probe ended.

    :param succeeded: ``None`` if it neither succeeded nor failed, so that it is returned
    :param open_ms: for how many milliseconds the circuit opens if the probe failed
    """

    nonce: str
    succeeded: bool | None
    open_ms: int


def _first_permit() -> Permit:
    return Permit(Generation())


@define(eq=False)
class Snapshot:
    """What this process knows of a circuit.

    ``state`` decides about calls; ``stored`` is the last answer of the store, and ``learned`` the
    same by the steady clock. ``permit`` is shared by all calls through the closed circuit. ``calm``
    is true while the circuit is closed and counts no failure, so that a success changes nothing.
    ``rates`` counts calls if a policy judges rates, for each window that policies have.

    Still to be sent are ``unsent`` failures, a success at ``succeeded_ms``, before which the
    circuit had ``succeeded_version``, and the ``verdicts``, oldest first. ``local_probes`` are
    probes that were granted without the store, so no verdict on them is sent.
    """

    state: CircuitBreakerState = field(factory=CircuitBreakerState)
    stored: CircuitBreakerState = field(factory=CircuitBreakerState)
    learned: CircuitBreakerState = field(factory=CircuitBreakerState)
    permit: Permit = field(factory=_first_permit)
    calm: bool = True
    rates: dict[float, RateWindow] = field(factory=dict)
    unsent: int = 0
    succeeded_ms: int | None = None
    succeeded_version: int = 0
    verdicts: deque[Verdict] = field(factory=deque)
    local_probes: set[str] = field(factory=set)

    @property
    def dirty(self) -> bool:
        """Whether there is anything to be sent."""
        return bool(self.unsent or self.succeeded_ms is not None or self.verdicts)

    def learn(
        self,
        stored: CircuitBreakerState,
        policy: CircuitPolicy,
        quorum: int,
        now_ms: int,
        ahead_ms: int = 0,
    ) -> None:
        """Take over an answer of the store, unless a newer one is known.

        Failures and a success that are still to be sent are counted on top of it. Verdicts cannot
        be: until they are sent, ``state`` stays as they made it.

        :param quorum: how many processes must have reported failures before the circuit opens
        :param ahead_ms: how far the wall clock is ahead of ``now_ms``
        """
        if stored.version < self.stored.version:
            return
        longest_ms = policy._open_ms(stored.open_count - 1)
        self.learned = state = on_steady_clock(
            stored, now_ms, ahead_ms, longest_ms, self.stored, self.learned
        )
        self.stored = stored
        if self.succeeded_ms is not None:
            state = self._after_success(state, self.succeeded_ms, policy)
        if self.unsent:
            state = self._counted(state, self.unsent, policy, quorum, now_ms)
        if not self.verdicts:
            self._become(state)

    def forget_counts(self) -> None:
        """Forget failures and a success: the circuit has come into another state since then."""
        self.unsent = 0
        self.succeeded_ms = None

    def begin_anew(self) -> None:
        """Forget everything that is to be sent: the circuit has been set by hand since then."""
        self.forget_counts()
        self.verdicts.clear()
        self.local_probes.clear()
        self._begin_generation()

    def success_tells(self, policy: CircuitPolicy) -> bool:
        """Return whether the success that is to be sent changes the circuit in the store."""
        assert self.succeeded_ms is not None
        if self.stored.state != "closed":
            after = self._after_success(self.learned, self.succeeded_ms, policy)
            return after.state == "closed"
        return self.stored.failure_count > 0 and (
            self.stored.version <= self.succeeded_version
            or (self.learned.last_failure_ms or 0) <= self.succeeded_ms
        )

    def count_failures(self, count: int, policy: CircuitPolicy, quorum: int, now_ms: int) -> None:
        """Count failures of calls; the parameters are those of :meth:`learn`."""
        self.unsent += count
        self._become(self._counted(self.state, count, policy, quorum, now_ms))

    def reset_failures(self, now_ms: int) -> None:
        """Clear the failures of the closed circuit after a success."""
        self.unsent = 0
        self._succeeded(now_ms)
        self._become(circuit_rules.cleared(self.state, now_ms))

    def claim_probe(
        self, nonce: str, lease_ms: int, policy: CircuitPolicy, now_ms: int, *, local: bool
    ) -> ProbeReply:
        """Grant or refuse a probe without the store.

        :param local: whether the store was never asked for it, so that no verdict is sent
        """
        state = policy._limited(self.state)
        limit = policy.half_open_probes
        _, reply = circuit_rules.claim_probe(state, now_ms, nonce, lease_ms, limit)
        if reply.granted:
            self._become(reply.state)
            if local:
                self.local_probes.add(nonce)
        return reply

    def settle_probe(
        self, nonce: str, *, succeeded: bool | None, policy: CircuitPolicy, now_ms: int
    ) -> None:
        """Close or open the circuit when a probe has ended; ``None`` returns the probe."""
        open_ms = policy._open_ms(self.state.open_count)
        after: CircuitBreakerState | None
        if succeeded is None:
            after, _ = circuit_rules.return_probe(self.state, now_ms, nonce)
        else:
            after, _ = circuit_rules.settle_probe(
                self.state,
                now_ms,
                nonce,
                succeeded=succeeded,
                success_threshold=policy.success_threshold,
                open_ms=open_ms,
            )
        if after is not None and after is not self.state:
            self._become(after)
        if nonce in self.local_probes:
            self.local_probes.discard(nonce)
            if after is not None and after.state == "closed":
                self._succeeded(now_ms)
        else:
            self.verdicts.append(Verdict(nonce, succeeded, open_ms))

    def judge(self, policy: CircuitPolicy, now: float, *, failed: bool, slow: bool) -> int:
        """Count a call of this process for a policy that judges rates.

        :param now: when the call ended, in seconds of a clock that nobody sets
        :returns: how many calls failed or were slow if their share is too high, and then the
            count starts again; else 0
        """
        assert policy.window is not None
        rates = self.rates.get(policy.window)
        if rates is None:
            rates = self.rates[policy.window] = RateWindow(policy.window)
        rates.add(now, failed=failed, slow=slow)
        excess = rates.excess(policy.minimum_calls, policy.failure_rate, policy.slow_rate)
        if excess:
            rates.clear()
        return excess

    def go_on_with(self, earlier: Snapshot) -> None:
        """Go on with the calls that an earlier event loop counted."""
        if not self.rates:
            self.rates = earlier.rates

    def take_failures(self) -> int:
        """Return how many failures are to be sent, and consider them sent."""
        count, self.unsent = self.unsent, 0
        return count

    def put_back_failures(self, count: int) -> None:
        """Consider failures not sent after all."""
        self.unsent += count

    def sent_success(self, succeeded_ms: int) -> None:
        """Consider a success sent, unless there was a later one."""
        if self.succeeded_ms == succeeded_ms:
            self.succeeded_ms = None

    def sent_verdict(self) -> None:
        """Consider the oldest verdict sent."""
        self.verdicts.popleft()

    def _counted(
        self,
        state: CircuitBreakerState,
        count: int,
        policy: CircuitPolicy,
        quorum: int,
        now_ms: int,
    ) -> CircuitBreakerState:
        report = policy._report(count, state.open_count, quorum)
        state, _ = circuit_rules.count_failures(state, now_ms, report)
        return state

    def _after_success(
        self, state: CircuitBreakerState, succeeded_ms: int, policy: CircuitPolicy
    ) -> CircuitBreakerState:
        """Return a circuit as a success leaves it that came after what the circuit shows."""
        if state.state == "closed":
            return circuit_rules.cleared(state, succeeded_ms)
        until_ms = (policy._limited(state).open_until_ms or 0) if state.state == "open" else 0
        if state.state == "forced-open" or max(state.since_ms or 0, until_ms) > succeeded_ms:
            return state
        return circuit_rules.closed(state, succeeded_ms)

    def _become(self, state: CircuitBreakerState) -> None:
        """Replace the state that decides about calls."""
        old, self.state = self.state.state, state
        self.calm = state.state == "closed" and not state.failure_count
        if state.state != old:
            self._begin_generation()
            if state.state == "closed":
                self.unsent = 0

    def _begin_generation(self) -> None:
        self.permit = Permit(Generation())
        self.rates.clear()

    def _succeeded(self, now_ms: int) -> None:
        self.succeeded_ms = now_ms
        self.succeeded_version = self.stored.version
