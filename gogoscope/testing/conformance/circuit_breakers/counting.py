"""Rules of counting: failures, successes, and when a circuit opens."""

from __future__ import annotations

import anyio
import pytest
from attrs import evolve

from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    FailureReport,
)
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore

MILLISECONDS_OF_A_WRITE = 5


def a_report(
    reporter: str = "p1",
    count: int = 1,
    threshold: int = 3,
    open_ms: int = 10_000,
    window_ms: int | None = None,
    quorum: int = 1,
) -> FailureReport:
    return FailureReport(
        reporter=reporter,
        count=count,
        threshold=threshold,
        open_ms=open_ms,
        window_ms=window_ms,
        quorum=quorum,
    )


async def state_of(store: CircuitBreakerStateProvider, key: str = "c") -> CircuitBreakerState:
    state = await store.get_state(key)
    assert state is not None
    return state


async def open_circuit(
    store: CircuitBreakerStateProvider, key: str = "c", open_ms: int = 10_000
) -> None:
    state = await store.count_failures(key, a_report(threshold=1, open_ms=open_ms))
    assert state.state == "open"


async def half_open(
    store: CircuitBreakerStateProvider, clock: ManualClock, nonce: str = "n1", limit: int = 1
) -> None:
    await open_circuit(store)
    clock.now += 10
    assert (await store.claim_probe("c", nonce, 5_000, limit)).granted


class CircuitCountingRules(Conformance):
    """How a ``CircuitBreakerStateProvider`` counts."""

    async def test_a_circuit_without_records_has_no_state(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        assert await store.get_state("c") is None

    async def test_reading_a_state_does_not_make_one(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await store.get_state("c")
        await store.record_success("c")
        await store.return_probe("c", "n1")
        assert not (await store.claim_probe("c", "n1", 1_000, 1)).granted
        assert await store.get_state("c") is None

    async def test_a_state_that_was_set_is_returned(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        now_ms = round(clock.now * 1000)
        given = CircuitBreakerState(
            state="half-open",
            failure_count=4,
            last_failure_ms=now_ms - 5,
            last_success_ms=now_ms - 9,
            open_until_ms=now_ms,
            open_count=2,
            success_count=1,
            window_start_ms=now_ms - 100,
            reporters={"p1": now_ms - 5, "p2": now_ms - 7},
            probes={"n1": now_ms + 5},
        )
        await store.set_state("c", given)
        got = await state_of(store)
        assert got.version > 0
        assert got == evolve(given, version=got.version)

    async def test_a_bare_state_that_was_set_is_returned(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await store.set_state("c", CircuitBreakerState(state="forced-open"))
        got = await state_of(store)
        assert got == CircuitBreakerState(state="forced-open", version=got.version)

    async def test_setting_a_state_ignores_its_version_and_the_stored_one_grows(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await store.record_failure("c", 5)
        before = (await state_of(store)).version
        await store.set_state("c", CircuitBreakerState(version=1))
        after = (await state_of(store)).version
        assert after > before
        await store.set_state("c", CircuitBreakerState(version=after * 10))
        assert after < (await state_of(store)).version < after * 10

    async def test_every_change_raises_the_version(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        versions: list[int] = []

        async def note() -> None:
            versions.append((await state_of(store)).version)

        await store.record_failure("c", 2)
        await note()
        await store.record_failure("c", 2)
        await note()
        clock.now += 31
        await store.claim_probe("c", "n1", 1_000, 2)
        await note()
        await store.return_probe("c", "n1")
        await note()
        await store.claim_probe("c", "n2", 1_000, 2)
        await note()
        await store.settle_probe("c", "n2", succeeded=True, success_threshold=1, open_ms=1_000)
        await note()
        await store.count_failures("c", a_report())
        await note()
        await store.reset_failures("c", versions[-1])
        await note()
        assert versions == sorted(set(versions))

    async def test_record_failure_counts_and_opens_at_the_maximum(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        assert await store.record_failure("c", 3) == 1
        assert await store.record_failure("c", 3) == 2
        assert (await state_of(store)).state == "closed"
        assert await store.record_failure("c", 3) == 3
        state = await state_of(store)
        assert state.state == "open"
        now_ms = clock.now * 1000
        assert state.open_until_ms == pytest.approx(now_ms + 30_000, abs=MILLISECONDS_OF_A_WRITE)
        assert state.last_failure_ms == pytest.approx(now_ms, abs=MILLISECONDS_OF_A_WRITE)
        assert state.open_count == 1

    async def test_record_failure_of_one_failure_opens_at_once(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        assert await store.record_failure("c", 1) == 1
        assert (await state_of(store)).state == "open"

    async def test_record_failure_counts_on_while_open_and_does_not_open_again(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        for count in range(1, 6):
            assert await store.record_failure("c", 3) == count
        state = await state_of(store)
        assert (state.state, state.failure_count, state.open_count) == ("open", 5, 1)

    async def test_a_success_clears_the_failures_of_a_closed_circuit(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await store.record_failure("c", 3)
        clock.now += 1
        await store.record_success("c")
        state = await state_of(store)
        assert (state.state, state.failure_count) == ("closed", 0)
        assert state.last_success_ms == round(clock.now * 1000)
        assert await store.record_failure("c", 3) == 1

    async def test_a_success_with_nothing_to_clear_writes_nothing(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await store.set_state("c", CircuitBreakerState())
        before = await state_of(store)
        await store.record_success("c")
        assert await state_of(store) == before

    async def test_a_late_success_does_not_close_an_open_circuit(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        await store.record_success("c")
        assert (await state_of(store)).state == "open"
        clock.now += 10
        await store.record_success("c")
        state = await state_of(store)
        assert (state.state, state.failure_count, state.open_count) == ("closed", 0, 0)

    async def test_a_success_closes_a_half_open_circuit(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await half_open(store, clock)
        await store.record_success("c")
        assert (await state_of(store)).state == "closed"

    async def test_a_circuit_that_is_forced_open_stays_so(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await store.set_state("c", CircuitBreakerState(state="forced-open"))
        clock.now += 1_000
        await store.record_success("c")
        await store.count_failures("c", a_report(threshold=1))
        await store.record_failure("c", 1)
        assert not (await store.claim_probe("c", "n1", 1_000, 1)).granted
        assert (await state_of(store)).state == "forced-open"

    async def test_failures_are_counted_together_and_trip_at_the_threshold(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        state = await store.count_failures("c", a_report(count=2))
        assert (state.state, state.failure_count) == ("closed", 2)
        state = await store.count_failures("c", a_report(count=2))
        assert (state.state, state.failure_count, state.open_count) == ("open", 4, 1)
        assert state.open_until_ms == pytest.approx(
            clock.now * 1000 + 10_000, abs=MILLISECONDS_OF_A_WRITE
        )
        assert state == await state_of(store)

    async def test_the_first_report_may_trip(self, store: CircuitBreakerStateProvider) -> None:
        assert (await store.count_failures("c", a_report(count=3))).state == "open"

    async def test_failures_that_arrive_when_the_circuit_is_not_closed_are_dropped(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await open_circuit(store)
        before = await state_of(store)
        assert await store.count_failures("c", a_report(count=9)) == before
        clock.now += 10
        await store.claim_probe("c", "n1", 1_000, 1)
        before = await state_of(store)
        assert await store.count_failures("c", a_report(count=9)) == before
        assert await state_of(store) == before

    async def test_only_failures_within_the_window_count(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        await store.count_failures("c", a_report(count=2, window_ms=1_000))
        clock.now += 0.9
        state = await store.count_failures("c", a_report(count=0, window_ms=1_000))
        assert state.failure_count == 2
        clock.now += 0.2
        state = await store.count_failures("c", a_report(count=2, window_ms=1_000))
        assert (state.state, state.failure_count) == ("closed", 2)
        state = await store.count_failures("c", a_report(count=1, window_ms=1_000))
        assert state.state == "open"

    async def test_a_circuit_opens_only_when_enough_processes_reported(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        for _ in range(3):
            state = await store.count_failures("c", a_report("p1", count=3, quorum=2))
            assert state.state == "closed"
        state = await store.count_failures("c", a_report("p2", quorum=2))
        assert state.state == "open"

    async def test_resetting_failures_needs_the_version(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        state = await store.count_failures("c", a_report(count=2))
        assert await store.reset_failures("c", state.version - 1) is None
        assert await store.reset_failures("c", state.version + 1) is None
        assert (await state_of(store)).failure_count == 2
        reset = await store.reset_failures("c", state.version)
        assert reset is not None
        assert (reset.state, reset.failure_count, dict(reset.reporters)) == ("closed", 0, {})
        assert reset == await state_of(store)

    async def test_only_a_closed_circuit_can_be_reset(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await open_circuit(store)
        assert await store.reset_failures("c", (await state_of(store)).version) is None
        assert await store.reset_failures("never seen", 1) is None

    @pytest.mark.usefixtures("atomic")
    async def test_no_concurrent_failure_is_lost(self, store: CircuitBreakerStateProvider) -> None:
        counts: list[int] = []

        async def fail() -> None:
            counts.append(await store.record_failure("c", 1_000))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(fail)
        assert sorted(counts) == list(range(1, 21))

    async def test_two_stores_on_the_same_data_share_its_circuits(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as first, open_store() as second:
            await open_circuit(first, open_ms=60_000)
            assert (await state_of(second)).state == "open"

    async def test_circuits_of_different_prefixes_are_different_and_prefixes_nest(
        self,
        open_store: OpenStore,
    ) -> None:
        async with (
            open_store("a:") as outer,
            open_store("a:b:") as inner,
            open_store("b:") as other,
        ):
            await inner.record_failure("c", 5)
            assert await other.get_state("c") is None
            assert await other.get_state("b:c") is None
            assert (await state_of(outer, "b:c")).failure_count == 1
