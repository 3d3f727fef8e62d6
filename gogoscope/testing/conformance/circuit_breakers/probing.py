"""Rules of probing: which calls may try an open circuit, and what their outcome changes."""

from __future__ import annotations

import anyio
import pytest

from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerStateProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock
from gogoscope.testing.conformance.circuit_breakers.counting import (
    half_open,
    open_circuit,
    state_of,
)


class CircuitProbingRules(Conformance):
    """How a ``CircuitBreakerStateProvider`` lets probes through."""

    async def test_no_probe_before_the_open_time_is_over(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        begin = clock.now
        await open_circuit(store)
        clock.now = begin + 9.998
        reply = await store.claim_probe("c", "n1", 5_000, 1)
        assert not reply.granted
        assert reply.state == await state_of(store)
        assert reply.state.state == "open"
        clock.now = begin + 10.001
        reply = await store.claim_probe("c", "n1", 5_000, 1)
        assert reply.granted
        assert reply.state == await state_of(store)
        assert reply.state.state == "half-open"
        assert reply.state.probes == {"n1": int(clock.now * 1000) + 5_000}

    async def test_a_closed_circuit_has_no_probes(self, store: CircuitBreakerStateProvider) -> None:
        await store.record_failure("c", 5)
        reply = await store.claim_probe("c", "n1", 5_000, 1)
        assert not reply.granted
        assert reply.state.state == "closed"

    async def test_at_most_the_limit_of_probes_is_in_flight(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n1", limit=2)
        assert (await store.claim_probe("c", "n2", 5_000, 2)).granted
        assert not (await store.claim_probe("c", "n3", 5_000, 2)).granted

    async def test_claiming_again_with_the_same_nonce_is_the_same_probe(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n1")
        reply = await store.claim_probe("c", "n1", 5_000, 1)
        assert reply.granted
        assert list(reply.state.probes) == ["n1"]

    async def test_a_probe_is_lost_when_its_lease_expires(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "dead")
        clock.now += 4.9
        assert not (await store.claim_probe("c", "n2", 5_000, 1)).granted
        clock.now += 0.2
        assert (await store.claim_probe("c", "n2", 5_000, 1)).granted
        settled = await store.settle_probe(
            "c", "dead", succeeded=True, success_threshold=1, open_ms=10_000
        )
        assert settled is None
        assert (await state_of(store)).state == "half-open"

    async def test_a_returned_probe_can_be_claimed_by_another(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n1")
        await store.return_probe("c", "n1")
        assert (await state_of(store)).state == "half-open"
        assert (await store.claim_probe("c", "n2", 5_000, 1)).granted

    async def test_returning_an_unknown_probe_changes_nothing(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n1")
        before = await state_of(store)
        await store.return_probe("c", "n2")
        assert await state_of(store) == before

    async def test_a_probe_that_succeeds_closes(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock)
        clock.now += 1
        state = await store.settle_probe(
            "c", "n1", succeeded=True, success_threshold=1, open_ms=10_000
        )
        assert state is not None
        assert (state.state, state.failure_count, state.open_count) == ("closed", 0, 0)
        assert (dict(state.probes), dict(state.reporters)) == ({}, {})
        assert state.last_success_ms == round(clock.now * 1000)
        assert state == await state_of(store)

    async def test_as_many_probes_as_the_threshold_must_succeed(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n0")
        for number in range(3):
            state = await store.settle_probe(
                "c", f"n{number}", succeeded=True, success_threshold=3, open_ms=10_000
            )
            assert state is not None
            assert state.state == ("closed" if number == 2 else "half-open")
            if number < 2:
                assert state.success_count == number + 1
                assert (await store.claim_probe("c", f"n{number + 1}", 5_000, 1)).granted

    async def test_a_probe_that_fails_opens_again(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n1", limit=2)
        await store.claim_probe("c", "n2", 5_000, 2)
        clock.now += 1
        state = await store.settle_probe(
            "c", "n1", succeeded=False, success_threshold=1, open_ms=20_000
        )
        assert state is not None
        assert (state.state, state.open_count, dict(state.probes)) == ("open", 2, {})
        assert state.open_until_ms == round(clock.now * 1000) + 20_000
        assert state.last_failure_ms == round(clock.now * 1000)
        late = await store.settle_probe("c", "n2", succeeded=True, success_threshold=1, open_ms=1)
        assert late is None
        assert await state_of(store) == state

    async def test_the_successes_are_forgotten_when_the_circuit_opens_again(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n1", limit=2)
        await store.claim_probe("c", "n2", 5_000, 2)
        await store.settle_probe("c", "n1", succeeded=True, success_threshold=2, open_ms=10_000)
        await store.settle_probe("c", "n2", succeeded=False, success_threshold=2, open_ms=10_000)
        clock.now += 10
        assert (await store.claim_probe("c", "n3", 5_000, 1)).granted
        state = await store.settle_probe(
            "c", "n3", succeeded=True, success_threshold=2, open_ms=10_000
        )
        assert state is not None
        assert (state.state, state.success_count) == ("half-open", 1)

    async def test_settling_a_circuit_without_state_is_no_verdict(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        for succeeded in (True, False):
            assert (
                await store.settle_probe(
                    "c", "n1", succeeded=succeeded, success_threshold=1, open_ms=10_000
                )
                is None
            )
        assert await store.get_state("c") is None

    @pytest.mark.usefixtures("atomic")
    async def test_of_many_concurrent_claims_the_limit_is_granted(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        clock.now += 10
        granted: list[str] = []

        async def claim(nonce: str) -> None:
            if (await store.claim_probe("c", nonce, 5_000, 3)).granted:
                granted.append(nonce)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(claim, f"n{number}")
        assert len(granted) == 3
        assert set((await state_of(store)).probes) == set(granted)
