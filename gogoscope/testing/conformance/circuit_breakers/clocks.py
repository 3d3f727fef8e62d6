"""Rules of time: wall clocks are set forward and back, and must not keep a circuit as it is."""

from __future__ import annotations

from attrs import evolve

from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerStateProvider,
)
from gogoscope.testing.conformance.base import Conformance, ManualClock
from gogoscope.testing.conformance.circuit_breakers.counting import (
    a_report,
    half_open,
    open_circuit,
    state_of,
)


class CircuitClockRules(Conformance):
    """What a ``CircuitBreakerStateProvider`` believes of the times that it finds."""

    async def test_an_open_time_that_the_caller_has_waited_for_is_over(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        seen = await state_of(store)
        clock.now += 4
        assert not (await store.claim_probe("c", "n1", 5_000, 1)).granted
        other = evolve(seen, open_until_ms=(seen.open_until_ms or 0) - 1)
        assert not (await store.claim_probe("c", "n1", 5_000, 1, other)).granted
        reply = await store.claim_probe("c", "n1", 5_000, 1, seen)
        assert reply.granted
        assert reply.state == await state_of(store)

    async def test_a_lease_that_the_caller_has_waited_for_is_over(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "dead")
        seen = await state_of(store)
        clock.now += 1
        renewed = evolve(seen, probes={"dead": seen.probes["dead"] - 1})
        assert not (await store.claim_probe("c", "n2", 5_000, 1, renewed)).granted
        reply = await store.claim_probe("c", "n2", 5_000, 1, seen)
        assert reply.granted
        assert list(reply.state.probes) == ["n2"]

    async def test_what_the_caller_has_waited_for_opens_nothing_else(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await open_circuit(store)
        seen = await state_of(store)
        await store.force_open("c")
        assert not (await store.claim_probe("c", "n1", 5_000, 1, seen)).granted
        await store.force_close("c")
        assert not (await store.claim_probe("c", "n1", 5_000, 1, seen)).granted

    async def test_a_probe_that_is_claimed_again_is_renewed(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "n1")
        for _ in range(3):
            clock.now += 4
            reply = await store.claim_probe("c", "n1", 5_000, 1)
            assert reply.granted
            assert reply.state.probes == {"n1": int(clock.now * 1000) + 5_000}
            assert not (await store.claim_probe("c", "n2", 5_000, 1)).granted

    async def test_a_probe_that_has_lost_its_place_is_not_renewed(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "late")
        clock.now += 5.1
        assert (await store.claim_probe("c", "n2", 5_000, 1)).granted
        assert not (await store.claim_probe("c", "late", 5_000, 0)).granted
        clock.now += 1
        renewed = await store.claim_probe("c", "n2", 5_000, 0)
        assert renewed.granted
        assert renewed.state.probes == {"n2": int(clock.now * 1000) + 5_000}
        await store.settle_probe("c", "n2", succeeded=False, success_threshold=1, open_ms=1_000)
        clock.now += 2
        opened = await state_of(store)
        for nonce in ("late", "n2"):
            assert not (await store.claim_probe("c", nonce, 5_000, 0)).granted
            assert not (await store.claim_probe("c", nonce, 5_000, 0, opened)).granted
        assert await state_of(store) == opened

    async def test_a_clock_that_is_set_far_back_keeps_no_circuit_open(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        clock.set_wall(clock.now - 3_600)
        clock.now += 10.1
        assert (await store.claim_probe("c", "n1", 5_000, 1)).granted

    async def test_a_clock_that_is_set_far_back_lets_a_success_close_a_circuit(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        clock.set_wall(clock.now - 3_600)
        clock.now += 10.1
        await store.record_success("c")
        assert (await state_of(store)).state == "closed"

    async def test_a_clock_that_is_set_far_back_keeps_no_dead_probe(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock, "dead")
        clock.set_wall(clock.now - 3_600)
        clock.now += 5.1
        assert (await store.claim_probe("c", "n2", 5_000, 1)).granted

    async def test_a_clock_that_is_set_far_back_keeps_no_old_failures(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        report = a_report(count=2, threshold=3, window_ms=60_000)
        await store.count_failures("c", report)
        clock.set_wall(clock.now - 3_600)
        clock.now += 60.1
        state = await store.count_failures("c", report)
        assert (state.state, state.failure_count) == ("closed", 2)
        assert state.window_start_ms == int(clock.now * 1000)

    async def test_clocks_that_differ_a_little_count_the_same_failures(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        report = a_report(count=2, threshold=3, window_ms=60_000)
        await store.count_failures("c", report)
        clock.set_wall(clock.now - 0.5)
        assert (await store.count_failures("c", report)).state == "open"

    async def test_a_window_that_the_process_has_seen_to_its_end_is_over(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        report = a_report(count=2, threshold=3, window_ms=60_000)
        first = await store.count_failures("c", report)
        clock.now += 1
        other = evolve(report, count=0, seen_window_ms=first.window_start_ms - 1)
        assert (await store.count_failures("c", other)).failure_count == 2
        report = evolve(report, seen_window_ms=first.window_start_ms)
        for state, count in (("closed", 2), ("open", 4)):
            found = await store.count_failures("c", report)
            assert (found.state, found.failure_count) == (state, count)
            clock.now += 1
