"""What a process knows of a circuit: what the store showed, and what is to be sent on top of it."""

from __future__ import annotations

from attrs import evolve

from gogoscope import CircuitBreaker
from gogoscope.circuit_breakers.snapshot import Snapshot
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState

NOW = 1_800_000_000_000
BREAKER = CircuitBreaker("payments", failure_threshold=3, reset_timeout=5)
CLOSED = CircuitBreakerState(
    failure_count=1, reporters={"another": NOW}, window_start_ms=NOW, version=7
)
OPEN = CircuitBreakerState(state="open", open_until_ms=NOW + 5_000, open_count=1, version=8)
HALF_OPEN = evolve(OPEN, state="half-open", probes={"p1": NOW + 5_000}, version=9)


def learned(*states: CircuitBreakerState) -> Snapshot:
    snapshot = Snapshot()
    for state in states:
        snapshot.learn(state, BREAKER, BREAKER.quorum, NOW)
    return snapshot


def test_an_older_state_than_the_last_one_is_not_learned() -> None:
    snapshot = learned(OPEN, CLOSED)
    assert (snapshot.stored, snapshot.state) == (OPEN, OPEN)


def test_failures_that_are_to_be_sent_count_on_top_of_what_the_store_shows() -> None:
    snapshot = Snapshot()
    snapshot.count_failures(1, BREAKER, BREAKER.quorum, NOW)
    snapshot.learn(CLOSED, BREAKER, BREAKER.quorum, NOW)
    assert (snapshot.stored.failure_count, snapshot.state.failure_count) == (1, 2)
    snapshot.count_failures(1, BREAKER, BREAKER.quorum, NOW)
    assert snapshot.state.state == "open"
    assert snapshot.take_failures() == 2
    assert not snapshot.dirty


def test_a_success_that_is_to_be_sent_clears_what_the_store_shows() -> None:
    snapshot = learned(CLOSED)
    snapshot.reset_failures(NOW)
    snapshot.learn(evolve(CLOSED, version=8), BREAKER, BREAKER.quorum, NOW)
    assert snapshot.state.failure_count == 0
    snapshot.sent_success(NOW - 1)
    assert snapshot.dirty
    snapshot.sent_success(NOW)
    assert not snapshot.dirty


def test_the_state_stays_as_a_verdict_made_it_until_the_verdict_is_sent() -> None:
    snapshot = learned(HALF_OPEN)
    snapshot.settle_probe("p1", succeeded=True, policy=BREAKER, now_ms=NOW)
    later = evolve(HALF_OPEN, version=10)
    snapshot.learn(later, BREAKER, BREAKER.quorum, NOW)
    assert (snapshot.stored, snapshot.state.state) == (later, "closed")
    snapshot.sent_verdict()
    snapshot.learn(later, BREAKER, BREAKER.quorum, NOW)
    assert snapshot.state.state == "half-open"


def test_the_store_is_told_no_verdict_on_a_probe_that_it_never_heard_of() -> None:
    snapshot = learned(evolve(OPEN, open_until_ms=NOW))
    assert snapshot.claim_probe("mine", 1_000, BREAKER, NOW, local=True).granted
    assert not snapshot.claim_probe("too many", 1_000, BREAKER, NOW, local=True).granted
    snapshot.settle_probe("mine", succeeded=False, policy=BREAKER, now_ms=NOW)
    assert (snapshot.state.state, snapshot.dirty) == ("open", False)


def test_a_change_of_the_state_begins_a_new_generation() -> None:
    snapshot = learned(CLOSED)
    first = snapshot.permit.generation
    snapshot.count_failures(1, BREAKER, BREAKER.quorum, NOW)
    assert snapshot.permit.generation is first
    snapshot.count_failures(1, BREAKER, BREAKER.quorum, NOW)
    assert snapshot.state.state == "open"
    assert snapshot.permit.generation is not first


def test_a_circuit_that_closes_forgets_the_failures_that_are_to_be_sent() -> None:
    snapshot = learned(CLOSED)
    snapshot.count_failures(2, BREAKER, BREAKER.quorum, NOW)
    assert (snapshot.state.state, snapshot.unsent) == ("open", 2)
    snapshot.learn(CircuitBreakerState(version=8), BREAKER, BREAKER.quorum, NOW)
    assert (snapshot.state.state, snapshot.unsent) == ("closed", 0)
