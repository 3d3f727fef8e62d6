"""What a circuit asks of its store, and when: rarely, together, and never before a call."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, scope
from gogoscope.events import CircuitStoreFailed, CircuitStoreRecovered, Event
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend
from tests.unit.circuit_breakers.observed_store import (
    BREAKER,
    Clock,
    ObservedStore,
    Service,
    break_it,
    down,
    hangs,
)

anyio_test = pytest.mark.anyio


@anyio_test
async def test_a_success_resets_failures_that_others_counted_before_it(
    store: ObservedStore, clock: Clock
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=9)
    service = Service()
    service.error = OSError("broken")
    interrupted = 0

    async def others_fail_meanwhile() -> None:
        nonlocal interrupted
        if store.requests[-1] == "reset_failures" and interrupted < 2:
            interrupted += 1
            await store.record_failure("payments", 9)

    async with scope(persistence=store, circuit_breaker=breaker) as s:
        _ = (await s.task(service)).error
        await anyio.wait_all_tasks_blocked()
        service.error = None
        store.fault = others_fail_meanwhile
        _ = (await s.task(service)).error
    state = await store.get_state("payments")
    assert state is not None
    assert (interrupted, state.failure_count) == (2, 0)


@anyio_test
async def test_a_success_resets_no_failure_that_came_after_it(
    store: ObservedStore, clock: Clock
) -> None:
    service = Service()
    service.error = OSError("broken")

    async def another_fails_later() -> None:
        if store.requests[-1] == "reset_failures" and store.requests.count("reset_failures") == 1:
            clock.now += 1
            await store.record_failure("payments", 9)

    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        _ = (await s.task(service)).error
        await anyio.wait_all_tasks_blocked()
        service.error = None
        store.fault = another_fails_later
        _ = (await s.task(service)).error
    state = await store.get_state("payments")
    assert state is not None
    assert state.failure_count == 2


@anyio_test
async def test_a_closed_circuit_makes_no_request_for_a_call(store: ObservedStore) -> None:
    breaker = CircuitBreaker("payments", refresh_interval=1000)
    service = Service()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(1000):
            _ = (await s.task(service)).error
    assert store.requests == ["get_state"]


@anyio_test
async def test_an_open_circuit_makes_no_request_for_a_rejection(store: ObservedStore) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=3, refresh_interval=1000)
    await break_it(store, breaker)
    store.requests.clear()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(1000):
            _ = (await s.task(Service())).error
    assert store.requests == []


@BOTH
def test_failures_are_sent_together(
    store: ObservedStore, virtual_clock: VirtualClock, backend: Backend
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=10_000)
    service = Service()
    service.error = OSError("broken")
    store.fault = lambda: anyio.sleep(0.05)

    async def program() -> CircuitBreakerState | None:
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            tasks = [s.task(service) for _ in range(1000)]
            for task in tasks:
                assert (await task).error is not None
        return await store.get_state("payments")

    state = virtual_clock.run(program, backend=backend)
    assert store.requests.count("count_failures") <= 3
    assert state is not None
    assert state.failure_count == 1000


@anyio_test
async def test_changes_by_other_processes_are_seen_after_the_refresh_interval(
    store: ObservedStore, clock: Clock
) -> None:
    breaker = CircuitBreaker("payments", refresh_interval=0.01)
    service = Service()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        assert (await s.task(service)).error is None
        await store.set_state(
            "payments",
            CircuitBreakerState(state="open", open_until_ms=math.floor(clock.now * 1000) + 5000),
        )
        err: Exception | None = None
        with anyio.fail_after(5):
            while err is None:
                await anyio.sleep(0)
                clock.now += 0.005
                err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)


@anyio_test
@pytest.mark.parametrize("fault", [down, hangs])
async def test_a_store_that_fails_never_reaches_the_caller_and_the_circuit_works_locally(
    store: ObservedStore, clock: Clock, fault: Any
) -> None:
    store.fault = fault
    events: list[Event] = []
    breaker = CircuitBreaker("payments", failure_threshold=2, reset_timeout=30)
    service = Service()
    with anyio.fail_after(10):
        async with scope(persistence=store, circuit_breaker=breaker, on_event=events.append) as s:
            assert (await s.task(service)).unwrap() == "fine"
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            _ = (await s.task(service)).error
            err, _ = await s.task(service)
            assert isinstance(err, CircuitOpenError)
            await anyio.wait_all_tasks_blocked()
            clock.now += 30
            service.error = None
            assert (await s.task(service)).unwrap() == "fine"
            assert (await s.task(service)).unwrap() == "fine"
    assert len([event for event in events if isinstance(event, CircuitStoreFailed)]) == 1


@anyio_test
async def test_a_store_that_comes_back_learns_what_happened_meanwhile(
    store: ObservedStore, clock: Clock
) -> None:
    events: list[Event] = []
    breaker = CircuitBreaker("payments", failure_threshold=3, refresh_interval=0.01)
    service = Service()
    service.error = OSError("broken")
    async with scope(persistence=store, circuit_breaker=breaker, on_event=events.append) as s:
        store.fault = down
        for _ in range(2):
            _ = (await s.task(service)).error
        store.fault = None
        with anyio.fail_after(5):
            while not any(isinstance(event, CircuitStoreRecovered) for event in events):
                await anyio.sleep(0)
                clock.now += 0.005
                service.error = ValueError("one more")
                _ = (await s.task(service)).error
    state = await store.get_state("payments")
    assert state is not None
    assert state.state == "open"
