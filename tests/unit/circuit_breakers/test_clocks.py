"""The wall clock is set back and forward; only the time that has passed changes a circuit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, scope
from gogoscope._core.clock import Clock, clock_here, clock_in_context
from gogoscope.circuit_breakers.registry import here
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend
from tests.unit.circuit_breakers.faulty_store import FaultyStore

START = 1_800_000_000.0
HOUR = 3600.0
BREAKER = CircuitBreaker("payments", failure_threshold=1, reset_timeout=30)

Main = Callable[["SteppedClock", FaultyStore], Awaitable[None]]


class SteppedClock:
    """The virtual clock, whose wall clock a test sets: it is off by ``shift`` seconds."""

    def __init__(self, steady: Clock) -> None:
        self._steady = steady
        self.shift = 0.0
        clock_in_context.set(self)

    def wall(self) -> float:
        return self._steady.wall() + self.shift

    def elapsed(self) -> float:
        return self._steady.elapsed()


def run(main: Main, backend: Backend) -> None:
    async def program() -> None:
        await main(SteppedClock(clock_here()), FaultyStore())

    VirtualClock(START).run(program, backend=backend)


async def good() -> int:
    return 1


async def bad() -> None:
    raise OSError("broken")


@BOTH
@pytest.mark.parametrize("back", [HOUR, 20.0, -HOUR])
def test_a_circuit_is_open_for_its_reset_timeout_however_the_clock_is_set(
    back: float, backend: Backend
) -> None:
    async def main(clock: SteppedClock, store: FaultyStore) -> None:
        async with scope(persistence=store, circuit_breaker=BREAKER) as s:
            _ = (await s.task(bad)).error
            await anyio.sleep(2)
            clock.shift -= back
            await anyio.sleep(27)
            err, _ = await s.task(good)
            assert isinstance(err, CircuitOpenError)
            assert err.retry_after <= 1.1
            await anyio.sleep(1.1)
            assert await s.task(good) == (None, 1)

    run(main, backend)


@BOTH
@pytest.mark.parametrize("back", [HOUR, 20.0])
def test_a_process_that_finds_an_open_circuit_waits_no_longer_than_its_reset_timeout(
    back: float, backend: Backend
) -> None:
    async def main(clock: SteppedClock, store: FaultyStore) -> None:
        await store.record_failure("payments", 1)
        clock.shift -= back
        async with scope(persistence=store, circuit_breaker=BREAKER) as s:
            err, _ = await s.task(good)
            assert isinstance(err, CircuitOpenError)
            assert err.retry_after <= 30
            await anyio.sleep(30.1)
            assert await s.task(good) == (None, 1)

    run(main, backend)


@BOTH
def test_a_lowered_reset_timeout_takes_effect_at_once(backend: Backend) -> None:
    async def main(clock: SteppedClock, store: FaultyStore) -> None:
        lowered = CircuitBreaker("payments", reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=BREAKER) as s:
            _ = (await s.task(bad)).error
        async with scope(persistence=store, circuit_breaker=lowered) as s:
            await anyio.sleep(4.9)
            assert isinstance((await s.task(good)).error, CircuitOpenError)
            await anyio.sleep(0.2)
            assert await s.task(good) == (None, 1)

    run(main, backend)


@BOTH
@pytest.mark.parametrize("back", [HOUR, 40.0])
def test_a_prober_that_died_keeps_its_place_for_its_lease_however_the_clock_is_set(
    back: float, backend: Backend
) -> None:
    async def main(clock: SteppedClock, store: FaultyStore) -> None:
        async with scope(persistence=store, circuit_breaker=BREAKER) as s:
            _ = (await s.task(bad)).error
            await anyio.sleep(31)
            assert (await store.claim_probe("payments", "died", 30_000, 1)).granted
            assert isinstance((await s.task(good)).error, CircuitOpenError)
            clock.shift -= back
            await anyio.sleep(29)
            assert isinstance((await s.task(good)).error, CircuitOpenError) or back == HOUR
            await anyio.sleep(1.1)
            assert await s.task(good) == (None, 1)

    run(main, backend)


@BOTH
@pytest.mark.parametrize("back", [HOUR, 30.0])
def test_failures_that_have_left_the_window_do_not_count_however_the_clock_is_set(
    back: float, backend: Backend
) -> None:
    async def main(clock: SteppedClock, store: FaultyStore) -> None:
        breaker = CircuitBreaker("payments", failure_threshold=2, window=60)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            _ = (await s.task(bad)).error
            await anyio.sleep(1)
            clock.shift -= back
            await anyio.sleep(60)
            _ = (await s.task(bad)).error
            await anyio.sleep(1)
            assert (await breaker.state()).failure_count == 1
            assert await s.task(good) == (None, 1)

    run(main, backend)


@BOTH
def test_a_success_clears_the_failures_before_it_however_the_clock_is_set(backend: Backend) -> None:
    async def main(clock: SteppedClock, store: FaultyStore) -> None:
        breaker = CircuitBreaker("payments", failure_threshold=3)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            _ = (await s.task(bad)).error
            await anyio.sleep(1)
            clock.shift -= HOUR
            assert await s.task(good) == (None, 1)
            await anyio.sleep(1)
            assert (await breaker.state()).failure_count == 0

    run(main, backend)


@BOTH
def test_what_others_change_is_learned_in_time_however_the_clock_is_set(backend: Backend) -> None:
    async def main(clock: SteppedClock, store: FaultyStore) -> None:
        async with scope(persistence=store, circuit_breaker=BREAKER) as s:
            assert await s.task(good) == (None, 1)
            clock.shift -= HOUR
            await store.force_open("payments")
            await anyio.sleep(1.1)
            await s.task(good)
            await anyio.sleep(0.1)
            assert isinstance((await s.task(good)).error, CircuitOpenError)

    run(main, backend)


@BOTH
def test_the_window_of_a_rate_goes_on_in_another_event_loop(backend: Backend) -> None:
    here.circuits.clear()
    breaker = CircuitBreaker(
        f"rated {backend}", failure_rate=0.5, minimum_calls=10, window=1, refresh_interval=600
    )

    async def fail(times: int) -> None:
        for _ in range(times):
            with pytest.raises(OSError, match="broken"):
                await breaker.call(bad)

    async def rejected() -> None:
        with pytest.raises(CircuitOpenError):
            await breaker.call(good)

    for times in (5, 5):
        anyio.run(fail, times, backend=backend)
    anyio.run(rejected, backend=backend)
    here.circuits.clear()
