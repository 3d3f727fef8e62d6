"""Rules of looking at circuits and of setting them by hand."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    FailureReport,
)
from gogoscope.testing.conformance.base import Conformance, ManualClock
from gogoscope.testing.conformance.circuit_breakers.counting import open_circuit, state_of

YEAR = 366 * 86_400


class CircuitControlRules(Conformance):
    """What people see of a ``CircuitBreakerStateProvider``, and what they do to it."""

    async def test_a_circuit_knows_since_when_it_is_in_its_state(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        opened = await state_of(store)
        assert opened.since_ms == opened.last_failure_ms
        for number, succeeded in enumerate((False, True)):
            clock.now += 20
            reply = await store.claim_probe("c", f"n{number}", 5_000, 1)
            assert reply.state.since_ms == int(clock.now * 1000)
            clock.now += 1
            settled = await store.settle_probe(
                "c", f"n{number}", succeeded=succeeded, success_threshold=1, open_ms=1_000
            )
            assert settled is not None
            assert settled.state == ("closed" if succeeded else "open")
            assert settled.since_ms == int(clock.now * 1000)
            assert settled == await state_of(store)

    async def test_the_next_probe_is_at_the_end_of_the_open_time_or_of_a_lease(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        opened = await state_of(store)
        assert opened.next_probe_ms == opened.open_until_ms
        clock.now += 10.1
        reply = await store.claim_probe("c", "n1", 5_000, 1)
        assert reply.state.next_probe_ms == int(clock.now * 1000) + 5_000
        assert (await store.force_open("c")).next_probe_ms is None

    async def test_a_circuit_set_by_hand_has_nothing_but_its_state_and_the_time(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        now_ms = int(clock.now * 1000)
        fresh = CircuitBreakerState(since_ms=now_ms, window_start_ms=now_ms)
        forced = await store.force_open("c")
        assert forced == evolve(fresh, state="forced-open", version=forced.version)
        for by_hand in (store.force_close, store.reset_circuit):
            found = await by_hand("c")
            assert found == evolve(fresh, version=found.version)

    async def test_forced_open_lasts_for_years(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        forced = await store.force_open("c")
        clock.now += 10 * YEAR
        assert not (await store.claim_probe("c", "n1", 1_000, 1)).granted
        assert await state_of(store) == forced
        assert await store.circuits() == {"c": forced}

    async def test_a_probe_in_flight_has_no_verdict_after_the_circuit_was_set_by_hand(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        clock.now += 10.1
        assert (await store.claim_probe("c", "n1", 5_000, 1)).granted
        closed = await store.force_close("c")
        late = await store.settle_probe("c", "n1", succeeded=False, success_threshold=1, open_ms=1)
        assert late is None
        assert await state_of(store) == closed

    async def test_a_circuit_that_was_closed_by_hand_counts_anew(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await open_circuit(store)
        await store.force_close("c")
        report = FailureReport("p1", 2, threshold=3, open_ms=10_000, window_ms=60_000)
        assert (await store.count_failures("c", report)).state == "closed"
        assert (await store.count_failures("c", report)).state == "open"

    async def test_a_pattern_that_is_not_a_str_is_refused(self, store: Any) -> None:
        with pytest.raises(TypeError, match="pattern must be a str or None"):
            await store.circuits(3)

    @pytest.mark.parametrize(
        ("wrong", "error", "message"),
        [
            ({"state": "opened"}, ValueError, "must be one of closed, open, half-open, forced-op"),
            ({"failure_count": -1}, ValueError, "state.failure_count must be 0 or more"),
            ({"failure_count": "3"}, TypeError, "state.failure_count must be an int"),
            ({"open_until_ms": 1.5}, TypeError, "state.open_until_ms must be an int"),
            ({"since_ms": 2**63}, ValueError, "state.since_ms must be 0 or more"),
            ({"probes": {"n1": None}}, TypeError, r"state.probes\['n1'\] must be an int"),
            ({"probes": {"": 1}}, ValueError, "the name '' in state.probes must not be empty"),
            ({"reporters": ["p1"]}, TypeError, "state.reporters must be a mapping"),
        ],
    )
    async def test_a_state_that_nobody_can_read_is_refused(
        self,
        store: CircuitBreakerStateProvider,
        wrong: dict[str, Any],
        error: type[Exception],
        message: str,
    ) -> None:
        state = evolve(CircuitBreakerState(), **wrong)
        with pytest.raises(error, match=message):
            await store.set_state("c", state)
        assert await store.get_state("c") is None
