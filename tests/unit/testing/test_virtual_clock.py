"""Virtual time for tests of programs with scopes, and clocks that a test sets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, LeaseLostError, Retry, scope
from gogoscope.persistence import current_clock
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from gogoscope.testing.conformance import ManualClock
from tests.support.backends import Backend

BACKENDS: list[Backend] = ["asyncio", "trio"]


async def broken() -> None:
    raise ValueError("broken")


@pytest.mark.parametrize("backend", BACKENDS)
def test_time_passes_by_itself(virtual_clock: VirtualClock, backend: Backend) -> None:
    started = time.monotonic()

    async def program() -> float:
        before = current_clock.wall()
        async with scope() as s:
            for _ in range(100):
                s.task(anyio.sleep, 3600)
        return current_clock.wall() - before

    assert virtual_clock.run(program, backend=backend) == pytest.approx(3600)
    assert virtual_clock.elapsed() == pytest.approx(3600)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_virtual_clock_drives_retries_timeouts_leases_breakers_and_expiry(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    store = MemoryStore()
    breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=600)
    waits: list[float] = []

    async def program() -> None:
        async with scope(persistence=store) as s:
            policy = Retry(
                3,
                delay=1000,
                on_retry=lambda attempt, error, delay: waits.append(current_clock.wall()),
            )
            _ = (await s.task(broken, retry=policy)).error
            err, _ = await s.task(anyio.sleep, 1e9, timeout=1e6)
            assert isinstance(err, TimeoutError)
            async with s.lock("order", ttl=30) as locked:
                await anyio.sleep(3000)
                locked.ensure()
            handle = await s.acquire_lock("order", 30)
            assert handle is not None
            await anyio.sleep(31)
            with pytest.raises(LeaseLostError):
                handle.ensure()
            _ = (await s.task(broken, circuit_breaker=breaker)).error
            err, _ = await s.task(broken, circuit_breaker=breaker)
            assert isinstance(err, CircuitOpenError)
            await anyio.sleep(600)
            err, _ = await s.task(broken, circuit_breaker=breaker)
            assert isinstance(err, ValueError)
            await store.set("key", 1, ttl=60)
            await anyio.sleep(59)
            assert await store.get("key") == 1
            await anyio.sleep(2)
            assert await store.get("key") is None

    virtual_clock.run(program, backend=backend)
    assert waits[1] - waits[0] == pytest.approx(1000)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_keeps_its_rate_and_skips_the_ticks_it_is_late_for(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        ticks.append(virtual_clock.elapsed())
        await anyio.sleep(25 if len(ticks) == 2 else 3)

    async def program() -> None:
        async with scope() as s:
            task = s.every(10, tick)
            await anyio.sleep(59)
            task.cancel()

    virtual_clock.run(program, backend=backend)
    assert ticks == pytest.approx([0, 10, 40, 50])


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_sleeps_until_a_time_of_the_steady_clock_gets_there_whatever_is_rounded(
    backend: Backend,
) -> None:
    async def program() -> None:
        for _ in range(2):
            with clock.installed():
                for number in range(1, 500):
                    at = current_clock.elapsed() + number / 7
                    for _ in range(5):
                        await anyio.sleep(max(0.0, at - current_clock.elapsed()))
                    assert current_clock.elapsed() >= at

    clock = VirtualClock()
    anyio.run(program, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_real_events_are_waited_for_with_patience(backend: Backend) -> None:
    clock = VirtualClock(patience=0.5)

    async def program() -> None:
        async with scope() as s:
            task = s.thread(time.sleep, 0.01, timeout=3600)
            assert (await task).error is None

    clock.run(program, backend=backend)
    assert clock.elapsed() < 3600


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("years", [1, 100])
def test_years_pass_in_a_moment_whatever_is_slept(
    virtual_clock: VirtualClock, backend: Backend, years: int
) -> None:
    """Floats of that size are coarser than what an event loop takes for its clock's resolution."""
    slept = [years * 365 * 86400.0, 0.1, 1e-9, 1 / 3, 86400.7, 12345.678901]

    async def program() -> tuple[float, float]:
        before = current_clock.wall(), current_clock.elapsed()
        for seconds in slept:
            await anyio.sleep(seconds)
        with anyio.move_on_after(0.3):
            await anyio.sleep(years * 1e7)
        return current_clock.wall() - before[0], current_clock.elapsed() - before[1]

    passed = sum(slept) + 0.3
    assert virtual_clock.run(program, backend=backend) == pytest.approx((passed, passed))
    assert virtual_clock.elapsed() == pytest.approx(passed)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_of_a_program_is_virtual_and_the_rest_is_real(backend: Backend) -> None:
    clock = VirtualClock(start=1_000_000_000)

    async def program() -> None:
        before = anyio.current_time()
        for run in (1, 2):
            with clock.installed():
                await anyio.sleep(86400)
                assert clock.elapsed() == 86400
                assert current_clock.wall() == 1_000_000_000 + run * 86400
                again = VirtualClock().installed()
                with pytest.raises(RuntimeError, match="virtual here already"), again:
                    pass
            assert abs(current_clock.wall() - time.time()) < 60
            began = time.monotonic()
            await anyio.sleep(0.05)
            assert time.monotonic() - began >= 0.04
        assert 2 * 86400 < anyio.current_time() - before < 2 * 86400 + 60

    anyio.run(program, backend=backend)


def test_bad_arguments_of_a_clock_are_named() -> None:
    clock: Any = VirtualClock
    with pytest.raises(TypeError, match=r"start must be a number of seconds since .*got '2030' of"):
        clock(start="2030")
    with pytest.raises(ValueError, match="patience must be 0 or more seconds, got -1"):
        clock(patience=-1)
    with pytest.raises(TypeError, match=r"coroutine object of 'broken'; write clock\.run\(broken"):
        clock().run(broken())
    with pytest.raises(ValueError, match="backend must be 'asyncio' or 'trio', got 'uvloop'"):
        clock().run(broken, backend="uvloop")


def test_clocks_show_what_they_are_and_what_time_it_is() -> None:
    async def program() -> str:
        await anyio.sleep(2.5)
        return repr(current_clock)

    clock = VirtualClock(start=1_000_000_000)
    assert clock.run(program) == f"<the current clock, now {clock!r}>"
    assert repr(clock) == "<VirtualClock 1000000002.500, 2.5 s elapsed>"
    assert repr(current_clock) == "<the current clock, now <the system's clock>>"
    manual = ManualClock(1000)
    manual.now += 5
    assert repr(manual) == "<ManualClock 1005.000, 5 s elapsed>"


def test_the_wall_clock_starts_where_it_is_told_to() -> None:
    clock = VirtualClock(start=1_000_000_000)

    async def program() -> float:
        await anyio.sleep(5)
        return current_clock.wall()

    assert clock.run(program) == pytest.approx(1_000_000_005)
    assert clock.run(program) == pytest.approx(1_000_000_010)
    assert abs(current_clock.wall() - time.time()) < 60


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_clocks_of_a_store_are_virtual(backend: Backend) -> None:
    async def program() -> tuple[float, float]:
        wall, elapsed = current_clock.wall(), current_clock.elapsed()
        await anyio.sleep(3600)
        return current_clock.wall() - wall, current_clock.elapsed() - elapsed

    assert VirtualClock().run(program, backend=backend) == pytest.approx((3600, 3600))


def test_the_elapsed_time_goes_on_from_one_program_to_the_next() -> None:
    async def program() -> float:
        await anyio.sleep(5)
        return current_clock.elapsed()

    clock = VirtualClock()
    assert clock.run(program) + 5 == pytest.approx(clock.run(program))


def test_the_clock_of_the_system_tells_both_times_in_every_thread() -> None:
    with ThreadPoolExecutor(1) as thread:
        before = thread.submit(current_clock.elapsed).result()
        assert abs(thread.submit(current_clock.wall).result() - time.time()) < 60
    assert 0 <= current_clock.elapsed() - before < 60


def test_a_manual_clock_that_is_set_lets_no_time_pass() -> None:
    clock = ManualClock(1000)
    clock.now += 5
    clock.set_wall(400)
    assert (clock.wall(), clock.elapsed()) == (400, 5)
    clock.now += 1
    assert (clock.wall(), clock.elapsed()) == (401, 6)
