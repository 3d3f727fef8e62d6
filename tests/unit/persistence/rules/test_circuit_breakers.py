"""How a circuit changes, by pure functions of time."""

from __future__ import annotations

import pytest
from attrs import evolve

from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState, FailureReport
from gogoscope.persistence.rules import circuit_breakers as circuit_rules

NOW = 1_800_000_000_000

OPEN = CircuitBreakerState(
    state="open", failure_count=3, open_until_ms=NOW, open_count=1, window_start_ms=NOW - 9_000
)
HALF_OPEN = evolve(OPEN, state="half-open", probes={"n1": NOW + 5_000})
FORCED_OPEN = CircuitBreakerState(state="forced-open")


def a_report(
    reporter: str = "p1",
    count: int = 1,
    threshold: int = 3,
    window_ms: int | None = None,
    quorum: int = 1,
) -> FailureReport:
    return FailureReport(reporter, count, threshold, 10_000, window_ms, quorum)


def count(state: CircuitBreakerState | None, *reports: FailureReport) -> CircuitBreakerState:
    for report in reports:
        state, _ = circuit_rules.count_failures(state, NOW, report)
    assert state is not None
    return state


def settle(
    state: CircuitBreakerState | None, nonce: str = "n1", *, succeeded: bool, threshold: int = 1
) -> tuple[CircuitBreakerState | None, CircuitBreakerState | None]:
    return circuit_rules.settle_probe(
        state,
        NOW + 1,
        nonce,
        succeeded=succeeded,
        success_threshold=threshold,
        open_ms=20_000,
    )


def test_the_first_failure_makes_the_circuit() -> None:
    assert count(None, a_report(count=2)) == CircuitBreakerState(
        failure_count=2, last_failure_ms=NOW, window_start_ms=NOW, reporters={"p1": NOW}
    )


def test_the_failure_that_reaches_the_threshold_trips() -> None:
    state = count(None, a_report(count=2), a_report(count=2))
    assert (state.state, state.failure_count) == ("open", 4)
    assert (state.open_until_ms, state.open_count) == (NOW + 10_000, 1)


def test_the_threshold_alone_does_not_trip_without_the_quorum() -> None:
    state = count(None, a_report("p1", 5, quorum=2), a_report("p1", 5, quorum=2))
    assert (state.state, state.failure_count) == ("closed", 10)
    assert count(state, a_report("p2", quorum=2)).state == "open"


def test_a_window_that_is_over_starts_the_count_anew() -> None:
    state = count(None, a_report("p1", 2, window_ms=1_000))
    within, _ = circuit_rules.count_failures(state, NOW + 999, a_report("p2", window_ms=1_000))
    assert within.state == "open"
    after, _ = circuit_rules.count_failures(state, NOW + 1_000, a_report("p2", window_ms=1_000))
    assert (after.state, after.failure_count) == ("closed", 1)
    assert (after.window_start_ms, after.reporters) == (NOW + 1_000, {"p2": NOW + 1_000})


def test_failures_in_a_row_have_no_window() -> None:
    state = count(None, a_report(count=2))
    year_ms = 365 * 86_400_000
    after, _ = circuit_rules.count_failures(state, NOW + year_ms, a_report())
    assert after.state == "open"


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, FORCED_OPEN])
def test_failures_of_a_circuit_that_is_not_closed_are_dropped(state: CircuitBreakerState) -> None:
    assert circuit_rules.count_failures(state, NOW, a_report(count=9))[0] is state


def test_no_probe_of_a_circuit_that_is_absent_closed_or_forced_open() -> None:
    for state in (None, CircuitBreakerState(), FORCED_OPEN):
        after, reply = circuit_rules.claim_probe(state, NOW, "n1", 5_000, 1)
        assert after is state
        assert not reply.granted


def test_the_first_probe_when_the_open_time_is_over_makes_it_half_open() -> None:
    after, reply = circuit_rules.claim_probe(OPEN, NOW - 1, "n1", 5_000, 1)
    assert after is OPEN
    assert not reply.granted
    after, reply = circuit_rules.claim_probe(OPEN, NOW, "n1", 5_000, 1)
    assert after == evolve(OPEN, state="half-open", since_ms=NOW, probes={"n1": NOW + 5_000})
    assert reply.granted
    assert reply.state is after


def test_at_most_the_limit_of_probes_runs_and_expired_ones_give_way() -> None:
    full, reply = circuit_rules.claim_probe(HALF_OPEN, NOW, "n2", 9_000, 2)
    assert reply.granted
    after, reply = circuit_rules.claim_probe(full, NOW + 4_999, "n3", 5_000, 2)
    assert after is full
    assert not reply.granted
    after, reply = circuit_rules.claim_probe(full, NOW + 5_000, "n3", 5_000, 2)
    assert reply.granted
    assert after is not None
    assert after.probes == {"n2": NOW + 9_000, "n3": NOW + 10_000}


def test_a_claim_that_was_granted_before_is_granted_again_and_renewed() -> None:
    after, reply = circuit_rules.claim_probe(HALF_OPEN, NOW + 1, "n1", 9_000, 1)
    assert after == evolve(HALF_OPEN, probes={"n1": NOW + 9_001})
    assert reply.granted


def test_a_probe_that_succeeds_closes_with_a_clean_count() -> None:
    after, verdict = settle(HALF_OPEN, succeeded=True)
    assert verdict is after
    assert after == CircuitBreakerState(
        last_success_ms=NOW + 1, window_start_ms=NOW + 1, since_ms=NOW + 1
    )


def test_a_probe_that_succeeds_below_the_threshold_only_counts() -> None:
    after, verdict = settle(HALF_OPEN, succeeded=True, threshold=2)
    assert verdict is after
    assert after == evolve(HALF_OPEN, success_count=1, last_success_ms=NOW + 1, probes={})


def test_a_probe_that_fails_opens_again() -> None:
    after, verdict = settle(HALF_OPEN, succeeded=False)
    assert verdict is after
    assert after == evolve(
        HALF_OPEN,
        state="open",
        since_ms=NOW + 1,
        open_until_ms=NOW + 20_001,
        open_count=2,
        last_failure_ms=NOW + 1,
        probes={},
    )


@pytest.mark.parametrize("succeeded", [True, False])
@pytest.mark.parametrize("state", [None, OPEN, FORCED_OPEN, CircuitBreakerState()])
def test_a_probe_of_a_circuit_that_is_not_half_open_has_no_verdict(
    state: CircuitBreakerState | None, succeeded: bool
) -> None:
    assert settle(state, succeeded=succeeded) == (state, None)


def test_a_probe_that_gave_way_to_another_has_no_verdict() -> None:
    assert settle(HALF_OPEN, "other", succeeded=False) == (HALF_OPEN, None)


def test_returning_a_probe_leaves_the_others_alone() -> None:
    state = evolve(HALF_OPEN, probes={"n1": NOW, "n2": NOW})
    assert circuit_rules.return_probe(state, NOW, "n1")[0] == evolve(state, probes={"n2": NOW})
    assert circuit_rules.return_probe(state, NOW, "n3")[0] is state
    assert circuit_rules.return_probe(None, NOW, "n1")[0] is None


def test_record_failure_always_counts_and_opens_a_closed_circuit_at_the_maximum() -> None:
    state, count = circuit_rules.record_failure(None, NOW, 2)
    assert (state.state, state.failure_count, count) == ("closed", 1, 1)
    state, count = circuit_rules.record_failure(state, NOW, 2)
    assert (state.state, state.failure_count, count) == ("open", 2, 2)
    assert state.open_until_ms == NOW + 30_000
    state, _ = circuit_rules.record_failure(state, NOW + 5, 2)
    assert (state.failure_count, state.open_count) == (3, 1)
    assert state.open_until_ms == NOW + 30_000


def test_record_success_clears_a_closed_circuit_and_closes_one_whose_time_is_over() -> None:
    failing = count(None, a_report(count=2))
    cleared, _ = circuit_rules.record_success(failing, NOW + 1)
    assert cleared == CircuitBreakerState(
        last_failure_ms=NOW, last_success_ms=NOW + 1, window_start_ms=NOW + 1
    )
    assert circuit_rules.record_success(cleared, NOW + 2)[0] is cleared
    assert circuit_rules.record_success(None, NOW)[0] is None
    assert circuit_rules.record_success(OPEN, NOW - 1)[0] is OPEN
    assert circuit_rules.record_success(FORCED_OPEN, NOW)[0] is FORCED_OPEN
    for state in (OPEN, HALF_OPEN):
        closed, _ = circuit_rules.record_success(state, NOW)
        assert closed is not None
        assert (closed.state, closed.failure_count, closed.open_count) == ("closed", 0, 0)


def test_a_circuit_is_kept_for_a_day_after_it_matters_and_forced_open_for_ever() -> None:
    day = 86_400_000
    assert circuit_rules.purge_at_ms(CircuitBreakerState(), NOW) == NOW + day
    opened = evolve(OPEN, open_until_ms=NOW + 60_000)
    assert circuit_rules.purge_at_ms(opened, NOW) == NOW + 60_000 + day
    assert circuit_rules.purge_at_ms(HALF_OPEN, NOW) == NOW + 5_000 + day
    assert circuit_rules.purge_at_ms(FORCED_OPEN, NOW) is None
