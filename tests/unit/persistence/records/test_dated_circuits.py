"""Circuits of one machine keep their times, whatever its wall clock is set to, and whenever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from gogoscope.persistence import CircuitBreakerState, FailureReport
from gogoscope.persistence.lock_records import Steady
from gogoscope.persistence.records.dated_circuits import dated, undated
from gogoscope.testing.conformance.base import ManualClock
from tests.conformance.places import MemoryPlace, Place, SQLitePlace

pytestmark = pytest.mark.anyio

HOUR = 3_600
STEPS = pytest.mark.parametrize("step", [HOUR, 8.0, -8.0, -HOUR])
A_FAILURE = FailureReport("p1", 1, 1, open_ms=10_000)


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return MemoryPlace() if request.param == "memory" else SQLitePlace(tmp_path)


@STEPS
async def test_a_circuit_is_open_for_its_time_and_no_longer(place: Place, step: float) -> None:
    clock = ManualClock()
    async with place.open(clock=clock) as store:
        await store.count_failures("c", A_FAILURE)
        clock.set_wall(clock.now + step)
        clock.now += 9.9
        assert not (await store.claim_probe("c", "early", 5_000, 1)).granted
        await store.record_success("c")
        found = await store.get_state("c")
        assert found.state == "open"
        assert found.open_until_ms - clock.now * 1000 == pytest.approx(100, abs=2)
        assert await store.circuits() == {"c": found}
        clock.now += 0.2
        assert (await store.claim_probe("c", "in time", 5_000, 1)).granted


@STEPS
async def test_a_probe_keeps_its_place_for_its_lease_and_no_longer(
    place: Place, step: float
) -> None:
    clock = ManualClock()
    async with place.open(clock=clock) as store:
        await store.count_failures("c", A_FAILURE)
        clock.now += 10
        assert (await store.claim_probe("c", "first", 5_000, 1)).granted
        clock.set_wall(clock.now + step)
        clock.now += 4.9
        assert not (await store.claim_probe("c", "second", 5_000, 1)).granted
        clock.now += 0.2
        assert (await store.claim_probe("c", "second", 5_000, 1)).granted


@STEPS
async def test_a_probe_that_is_renewed_lets_no_other_in(place: Place, step: float) -> None:
    clock = ManualClock()
    async with place.open(clock=clock) as store:
        await store.count_failures("c", A_FAILURE)
        clock.now += 10
        assert (await store.claim_probe("c", "first", 5_000, 1)).granted
        for _ in range(3):
            clock.set_wall(clock.now + step)
            clock.now += 3
            assert not (await store.claim_probe("c", "second", 5_000, 1)).granted
            assert (await store.claim_probe("c", "first", 5_000, 0)).granted
        closed = await store.settle_probe(
            "c", "first", succeeded=True, success_threshold=1, open_ms=10_000
        )
        assert closed.state == "closed"


@STEPS
async def test_failures_count_for_their_window_and_no_longer(place: Place, step: float) -> None:
    clock = ManualClock()
    report = FailureReport("p1", 1, 2, open_ms=10_000, window_ms=60_000)
    async with place.open(clock=clock) as store:
        for key, later, state in (("in", 59.9, "open"), ("out", 60.1, "closed")):
            await store.count_failures(key, report)
            clock.set_wall(clock.now + step)
            clock.now += later
            assert (await store.count_failures(key, report)).state == state


async def test_a_process_that_comes_after_the_step_reads_the_same(tmp_path: Path) -> None:
    place, clock, set_later = SQLitePlace(tmp_path), ManualClock(), ManualClock()
    async with place.open(clock=clock) as store:
        await store.count_failures("c", A_FAILURE)
        set_later.set_wall(clock.now + HOUR)
        async with place.open(clock=set_later) as other:
            assert not (await other.claim_probe("c", "n", 5_000, 1)).granted


A_STATE = CircuitBreakerState(
    state="half-open",
    last_failure_ms=1_000_000,
    open_until_ms=1_010_000,
    window_start_ms=990_000,
    since_ms=1_010_000,
    reporters={"p1": 1_000_000},
    probes={"n": 1_020_000},
    version=7,
)


@pytest.mark.parametrize(
    ("at", "by_ms"),
    [
        (Steady("this boot", 60_000), 0),
        (Steady("this boot", 59_000), 0),  # clocks that are adjusted run apart a little
        (Steady("this boot", 55_000), 5_000),
        (Steady("another boot", 5), 0),
        (None, 0),
    ],
)
async def test_times_move_by_as_much_as_the_wall_clock_was_set(
    at: Steady | None, by_ms: int
) -> None:
    record = dated(A_STATE, 1_015_000, Steady("this boot", 45_000))
    read: Any = undated(record, 1_030_000, at)
    assert read == evolve(
        A_STATE,
        last_failure_ms=1_000_000 + by_ms,
        open_until_ms=1_010_000 + by_ms,
        window_start_ms=990_000 + by_ms,
        since_ms=1_010_000 + by_ms,
        reporters={"p1": 1_000_000 + by_ms},
        probes={"n": 1_020_000 + by_ms},
    )
    assert type(read) is CircuitBreakerState
