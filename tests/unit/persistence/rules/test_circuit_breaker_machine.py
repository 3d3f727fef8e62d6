"""What holds of a circuit whatever happens to it: its rules under random events, step by step."""

from __future__ import annotations

from typing import Literal

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState, FailureReport
from gogoscope.persistence.rules import circuit_breakers as circuit_rules

START_MS = 1_800_000_000_000
OPEN_MS = 10_000
LIMIT = 3
SUCCESSES = 2
THRESHOLD = 4

State = CircuitBreakerState


class Machine(RuleBasedStateMachine):
    """A fleet's circuit, with probes that succeed, fail, die, give up, and come back too late."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = START_MS
        self.state: State | None = None
        self.claimed = 0
        self.ends: dict[str, int] = {}
        self.gone: list[str] = []
        self.successes = 0

    def become(self, after: State | None) -> None:
        """Take over a state as a store does, which raises its version with every change."""
        before, self.state = self.state, after
        if after is not None and after is not before:
            version = 0 if before is None else before.version + 1
            self.state = evolve(after, version=version)
        old = "closed" if before is None else before.state
        new = "closed" if after is None else after.state
        if old != new:
            self.gone += list(self.ends) if new != "half-open" else []
            self.ends = {} if new != "half-open" else self.ends
            assert after is not None
            assert after.since_ms == self.now_ms

    @rule(ms=st.integers(1, 2 * OPEN_MS))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(reporter=st.sampled_from("abc"), count=st.integers(1, 5), quorum=st.integers(1, 2))
    def failures_are_reported(self, reporter: str, count: int, quorum: int) -> None:
        before = self.state
        report = FailureReport(reporter, count, THRESHOLD, OPEN_MS, 60_000, quorum)
        after, _ = circuit_rules.count_failures(before, self.now_ms, report)
        if before is not None and before.state != "closed":
            assert after is before
        elif after.state == "open":
            assert after.failure_count >= THRESHOLD
            assert len(after.reporters) >= quorum
            assert after.open_until_ms == self.now_ms + OPEN_MS
        self.become(after)

    @rule(lease_ms=st.integers(1, OPEN_MS))
    def a_probe_is_claimed(self, lease_ms: int) -> None:
        before = self.state
        self.claimed += 1
        nonce = f"n{self.claimed}"
        after, reply = circuit_rules.claim_probe(before, self.now_ms, nonce, lease_ms, LIMIT)
        if not reply.granted:
            assert after is before
            return
        assert before is not None
        if before.state == "open":
            assert (before.open_until_ms or 0) <= self.now_ms
            self.successes = 0
        assert after is not None
        self.gone += [probe for probe in self.ends if probe not in after.probes]
        self.become(after)
        self.ends = {probe: end for probe, end in self.ends.items() if probe in after.probes}
        self.ends[nonce] = self.now_ms + lease_ms

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), succeeded=st.booleans())
    def a_probe_is_settled(self, data: st.DataObject, succeeded: bool) -> None:
        nonce = data.draw(st.sampled_from(sorted(self.ends)))
        before = self.state
        after, verdict = self.settle(nonce, succeeded)
        assert verdict is after is not before
        assert after is not None
        del self.ends[nonce]
        self.gone.append(nonce)
        if succeeded:
            self.successes += 1
            assert (after.state == "closed") == (self.successes >= SUCCESSES)
        else:
            assert after.state == "open"
        self.become(after)

    @precondition(lambda self: self.ends)
    @rule(data=st.data())
    def a_probe_is_returned(self, data: st.DataObject) -> None:
        nonce = data.draw(st.sampled_from(sorted(self.ends)))
        after, _ = circuit_rules.return_probe(self.state, self.now_ms, nonce)
        assert after is not None
        assert after.state == "half-open"
        del self.ends[nonce]
        self.gone.append(nonce)
        self.become(after)

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), succeeded=st.sampled_from([True, False, None]))
    def a_late_verdict_changes_nothing(self, data: st.DataObject, succeeded: bool | None) -> None:
        nonce = data.draw(st.sampled_from(self.gone))
        if succeeded is None:
            after, _ = circuit_rules.return_probe(self.state, self.now_ms, nonce)
            assert after is self.state
        else:
            assert self.settle(nonce, succeeded) == (self.state, None)

    @rule()
    def a_success_is_recorded(self) -> None:
        after, _ = circuit_rules.record_success(self.state, self.now_ms)
        if self.state is not None and self.state.state == "open" and after is not self.state:
            assert (self.state.open_until_ms or 0) <= self.now_ms
        self.become(after)

    @rule(name=st.sampled_from(["forced-open", "closed"]))
    def somebody_sets_it_by_hand(self, name: Literal["forced-open", "closed"]) -> None:
        self.become(circuit_rules.set_by_hand(self.state, self.now_ms, name)[0])
        self.gone += list(self.ends)
        self.ends = {}

    @rule()
    def somebody_resets_it(self) -> None:
        before = self.state
        after, _ = circuit_rules.reset(before, self.now_ms)
        if before is not None and before.state == "forced-open":
            assert after is before
        else:
            self.gone += list(self.ends)
            self.ends = {}
        self.become(after)

    def settle(self, nonce: str, succeeded: bool) -> tuple[State | None, State | None]:
        return circuit_rules.settle_probe(
            self.state,
            self.now_ms,
            nonce,
            succeeded=succeeded,
            success_threshold=SUCCESSES,
            open_ms=OPEN_MS,
        )

    @invariant()
    def there_are_never_more_probes_than_allowed(self) -> None:
        if self.state is not None:
            assert len(self.state.probes) <= LIMIT
            assert self.state.probes == self.ends
            if self.state.state != "half-open":
                assert not self.state.probes

    @invariant()
    def counts_are_never_negative(self) -> None:
        state = self.state or State()
        assert min(state.failure_count, state.success_count, state.open_count) >= 0
        assert state.success_count < SUCCESSES

    @invariant()
    def an_open_circuit_knows_its_end_and_how_often_it_opened(self) -> None:
        if self.state is not None and self.state.state == "open":
            assert self.state.open_until_ms is not None
            assert self.state.open_count >= 1
            assert self.state.next_probe_ms == self.state.open_until_ms

    @invariant()
    def only_a_circuit_that_is_not_forced_is_ever_purged(self) -> None:
        if self.state is not None:
            purge_ms = circuit_rules.purge_at_ms(self.state, self.now_ms)
            if self.state.state == "forced-open":
                assert purge_ms is None
            else:
                assert purge_ms is not None
                assert purge_ms > max([self.now_ms, *self.state.probes.values()])


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
