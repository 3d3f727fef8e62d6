"""Circuit breakers at work, on a store in memory that can be made to fail."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Retry, scope
from gogoscope.events import CircuitStateChanged, Event
from gogoscope.stores.memory import MemoryStore
from tests.unit.circuit_breakers.observed_store import (
    BREAKER,
    Clock,
    ObservedStore,
    Service,
    break_it,
)

anyio_test = pytest.mark.anyio


@anyio_test
async def test_failures_in_a_row_open_the_circuit_and_it_rejects_without_a_call(
    store: ObservedStore, clock: Clock
) -> None:
    await break_it(store)
    service = Service()
    clock.now += 10
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        err, _ = await s.task(service)
    assert isinstance(err, CircuitOpenError)
    assert err.name == "payments"
    assert err.retry_after == pytest.approx(20)
    assert service.calls == 0


@anyio_test
async def test_an_open_circuit_rejects_the_very_next_call_before_the_store_answered(
    store: ObservedStore,
) -> None:
    release = anyio.Event()
    service = Service()
    service.error = OSError("broken")
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        for _ in range(2):
            _ = (await s.task(service)).error
        store.fault = release.wait
        _ = (await s.task(service)).error
        err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)
        release.set()
    assert service.calls == 3


@anyio_test
async def test_a_success_resets_the_count(store: ObservedStore) -> None:
    service = Service()
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        for _ in range(3):
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            _ = (await s.task(service)).error
            service.error = None
            _ = (await s.task(service)).error
    state = await store.get_state("payments")
    assert state is not None
    assert (state.state, state.failure_count) == ("closed", 0)


@anyio_test
async def test_a_cancelled_call_counts_as_nothing_even_if_its_timeout_passes_while_it_ends() -> (
    None
):
    async def slow_to_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)

    breaker = CircuitBreaker("slow to end", failure_threshold=1)
    async with scope(persistence=MemoryStore(), circuit_breaker=breaker) as s:
        task = s.task(slow_to_end, timeout=0.05)
        await anyio.sleep(0.01)
        task.cancel("not needed")
        await task.wait()
        assert (await breaker.state()).state == "closed"


@anyio_test
async def test_a_timeout_of_the_task_is_a_failure_and_a_cancellation_is_not(
    store: ObservedStore,
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=2)
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(5):
            task = s.task(anyio.sleep_forever)
            await anyio.sleep(0.001)
            task.cancel()
            await task
        assert (await s.task(Service())).unwrap() == "fine"
        for _ in range(2):
            _ = (await s.task(anyio.sleep_forever, timeout=0.001)).error
        err, _ = await s.task(Service())
        assert isinstance(err, CircuitOpenError)


@anyio_test
async def test_a_timeout_of_a_try_is_a_failure_whatever_is_recorded(store: ObservedStore) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=2, record=KeyError)
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        _ = (
            await s.task(anyio.sleep_forever, retry=Retry(2, delay=0, attempt_timeout=0.001))
        ).error
        err, _ = await s.task(Service())
        assert isinstance(err, CircuitOpenError)


@anyio_test
async def test_each_try_counts(store: ObservedStore) -> None:
    service = Service()
    service.error = OSError("broken")
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        err, _ = await s.task(service, retry=Retry(10, delay=0))
    assert isinstance(err, CircuitOpenError)
    assert service.calls == 3


@anyio_test
async def test_record_and_ignore_choose_what_is_a_failure(store: ObservedStore) -> None:
    breaker = CircuitBreaker(
        "payments",
        failure_threshold=1,
        record=(OSError, KeyError),
        ignore=lambda error: error.args == ("fine",),
    )
    service = Service()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for error in (ValueError("not recorded"), OSError("fine")):
            service.error = error
            assert (await s.task(service)).error is error
        service.error = KeyError("recorded")
        _ = (await s.task(service)).error
        err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)


@anyio_test
async def test_a_late_success_does_not_close_and_a_late_failure_does_not_reopen(
    store: ObservedStore, clock: Clock
) -> None:
    release = anyio.Event()

    async def late(error: Exception | None) -> None:
        await release.wait()
        if error is not None:
            raise error

    breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=30)
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        success = s.task(late, None)
        failure = s.task(late, OSError("late"))
        await anyio.sleep(0.01)
        service = Service()
        service.error = OSError("broken")
        _ = (await s.task(service)).error
        release.set()
        assert (await success).error is None
        err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)
        await anyio.wait_all_tasks_blocked()
        clock.now += 30
        service.error = None
        assert (await s.task(service)).unwrap() == "fine"
        assert (await failure).error is not None
        assert (await s.task(service)).unwrap() == "fine"


@anyio_test
async def test_a_window_counts_failures_within_it_whatever_succeeds(
    store: ObservedStore, clock: Clock
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=3, window=60)
    service = Service()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for pause in (0, 50, 20, 10, 10):
            await anyio.wait_all_tasks_blocked()
            clock.now += pause
            service.error = OSError("broken")
            err, _ = await s.task(service)
            assert isinstance(err, OSError)
            service.error = None
            if pause != 10 or clock.now < 1_800_000_090:
                assert (await s.task(service)).error is None
        err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)


@anyio_test
async def test_without_a_name_the_circuit_is_that_of_the_scope(store: ObservedStore) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    service = Service()
    service.error = OSError("broken")
    async with scope(name="orders", persistence=store, circuit_breaker=breaker) as s:
        _ = (await s.task(service)).error
    async with scope(name="orders", persistence=store, circuit_breaker=breaker) as s:
        err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)
        assert err.name == "orders"
    async with scope(name="others", persistence=store, circuit_breaker=breaker) as s:
        err, _ = await s.task(service)
        assert isinstance(err, OSError)


@anyio_test
async def test_changes_of_state_are_reported(store: ObservedStore, clock: Clock) -> None:
    events: list[Event] = []
    told: list[tuple[str, str, str]] = []
    breaker = CircuitBreaker(
        "payments",
        failure_threshold=1,
        reset_timeout=30,
        on_state_change=lambda name, old, new: told.append((name, old, new)),
    )
    service = Service()
    service.error = OSError("broken")
    async with scope(
        name="orders", persistence=store, circuit_breaker=breaker, on_event=events.append
    ) as s:
        _ = (await s.task(service)).error
        await anyio.wait_all_tasks_blocked()
        clock.now += 30
        service.error = None
        _ = (await s.task(service)).error
    changes = [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
    assert told == [("payments", old, new) for old, new in changes]
    changed = [event for event in events if isinstance(event, CircuitStateChanged)]
    assert changed == [CircuitStateChanged("orders", "payments", old, new) for old, new in changes]


@anyio_test
async def test_scopes_of_one_process_share_a_circuit_without_naming_a_store() -> None:
    breaker = CircuitBreaker("of this test alone", failure_threshold=1)
    service = Service()
    service.error = OSError("broken")
    async with scope(circuit_breaker=breaker) as s:
        _ = (await s.task(service)).error
    async with scope(circuit_breaker=breaker) as s:
        err, _ = await s.task(service)
    assert isinstance(err, CircuitOpenError)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"name": 3}, TypeError, "name must be a str"),
        ({"failure_threshold": 0}, ValueError, "failure_threshold must be 1 or more"),
        ({"reset_timeout": -1}, ValueError, "reset_timeout must be more than 0"),
        ({"reset_timeout": "30"}, TypeError, "reset_timeout must be a number of seconds"),
        ({"window": 0}, ValueError, "window must be more than 0"),
        ({"half_open_probes": 1.5}, TypeError, "half_open_probes must be an int"),
        ({"quorum": 0}, ValueError, "quorum must be 1 or more"),
        ({"record": 3}, TypeError, "record must be exception types"),
        ({"max_reset_timeout": 1}, ValueError, "max_reset_timeout must be at least"),
        ({"treshold": 1}, TypeError, "treshold"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        CircuitBreaker(**options)
