"""A circuit that is half open: probes, their success, their failure, their cancelling."""

from __future__ import annotations

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, scope
from tests.unit.circuit_breakers.observed_store import (
    BREAKER,
    Clock,
    ObservedStore,
    Service,
    break_it,
)

anyio_test = pytest.mark.anyio


@anyio_test
async def test_half_open_lets_one_probe_through_and_its_success_closes(
    store: ObservedStore, clock: Clock
) -> None:
    await break_it(store)
    clock.now += 30
    release = anyio.Event()
    calls = 0

    async def probe() -> str:
        nonlocal calls
        calls += 1
        await release.wait()
        return "fine"

    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        tasks = [s.task(probe) for _ in range(10)]
        await anyio.sleep(0.01)
        release.set()
        results = [await task for task in tasks]
        assert sum(result.error is None for result in results) == 1
        assert sum(isinstance(result.error, CircuitOpenError) for result in results) == 9
        assert calls == 1
        assert (await s.task(probe)).unwrap() == "fine"
    state = await store.get_state("payments")
    assert state is not None
    assert state.state == "closed"


@anyio_test
async def test_a_failed_probe_opens_again_for_a_growing_time(
    store: ObservedStore, clock: Clock
) -> None:
    breaker = CircuitBreaker(
        "payments", failure_threshold=1, reset_timeout=10, max_reset_timeout=30
    )
    await break_it(store, breaker)
    service = Service()
    service.error = OSError("broken")
    waits = []
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(4):
            err, _ = await s.task(service)
            assert isinstance(err, CircuitOpenError)
            waits.append(err.retry_after)
            await anyio.wait_all_tasks_blocked()
            clock.now += err.retry_after
            err, _ = await s.task(service)
            assert isinstance(err, OSError)
    assert waits == pytest.approx([10, 20, 30, 30])


@anyio_test
async def test_success_threshold_asks_for_several_probes(
    store: ObservedStore, clock: Clock
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=10, success_threshold=3)
    await break_it(store, breaker)
    clock.now += 10
    service = Service()
    states = []
    for _ in range(3):
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            _ = (await s.task(service)).error
        state = await store.get_state("payments")
        assert state is not None
        states.append(state.state)
    assert states == ["half-open", "half-open", "closed"]


@anyio_test
async def test_a_cancelled_probe_is_returned(store: ObservedStore, clock: Clock) -> None:
    await break_it(store)
    clock.now += 30
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        task = s.task(anyio.sleep_forever)
        await anyio.sleep(0.01)
        task.cancel()
        await task
        assert (await s.task(Service())).unwrap() == "fine"


@anyio_test
async def test_a_probe_whose_claim_is_cancelled_is_returned(
    store: ObservedStore, clock: Clock
) -> None:
    await break_it(store)
    clock.now += 30
    claimed = anyio.Event()

    async def slow() -> None:
        claimed.set()
        await anyio.sleep(0.05)

    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        store.fault = slow
        task = s.task(Service())
        await claimed.wait()
        task.cancel()
        await task
        store.fault = None
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        assert (await s.task(Service())).unwrap() == "fine"
