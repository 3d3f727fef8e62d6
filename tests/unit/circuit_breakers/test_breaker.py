"""Circuit breakers at work, on a store in memory that can be made to fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Retry, StoreConnectionError, scope
from gogoscope.events import CircuitStateChanged, CircuitStoreFailed, CircuitStoreRecovered, Event
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.stores.memory import MemoryStore

anyio_test = pytest.mark.anyio


class Clock:
    """A wall clock that a test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_800_000_000.0
        for module in ("circuit", "sync", "view"):
            monkeypatch.setattr(f"gogoscope.circuit_breakers.{module}.clock_here", lambda: self)

    def wall(self) -> float:
        return self.now

    def elapsed(self) -> float:
        return self.now


class ObservedStore(MemoryStore):
    """Counts its requests by name; ``fault`` is awaited before each, and may fail or hang."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.requests: list[str] = []
        self.fault: Callable[[], Any] | None = None

    async def _observe(self, name: str) -> None:
        self.requests.append(name)
        if self.fault is not None:
            await self.fault()

    async def get_state(self, key: str) -> CircuitBreakerState | None:
        await self._observe("get_state")
        return await super().get_state(key)

    async def count_failures(self, key: str, report: Any) -> CircuitBreakerState:
        await self._observe("count_failures")
        return await super().count_failures(key, report)

    async def claim_probe(self, key: str, nonce: str, lease_ms: int, limit: int) -> Any:
        await self._observe("claim_probe")
        return await super().claim_probe(key, nonce, lease_ms, limit)

    async def settle_probe(self, key: str, nonce: str, **options: Any) -> Any:
        await self._observe("settle_probe")
        return await super().settle_probe(key, nonce, **options)

    async def return_probe(self, key: str, nonce: str) -> None:
        await self._observe("return_probe")
        await super().return_probe(key, nonce)

    async def reset_failures(self, key: str, version: int) -> Any:
        await self._observe("reset_failures")
        return await super().reset_failures(key, version)


async def down() -> None:
    raise StoreConnectionError("the store is down")


async def hangs() -> None:
    await anyio.sleep_forever()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def store(clock: Clock) -> ObservedStore:
    return ObservedStore(clock=clock)


class Service:
    """What the breaker protects: fails while ``error`` is set; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.calls += 1
        await anyio.sleep(0)
        if self.error is not None:
            raise self.error
        return "fine"


BREAKER = CircuitBreaker("payments", failure_threshold=3, reset_timeout=30)


async def break_it(store: ObservedStore, breaker: CircuitBreaker = BREAKER) -> None:
    service = Service()
    service.error = OSError("broken")
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(breaker.failure_threshold):
            await s.task(service)
    state = await store.get_state("payments")
    assert state is not None
    assert state.state == "open"


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
            await s.task(service)
        store.fault = release.wait
        await s.task(service)
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
            await s.task(service)
            await s.task(service)
            service.error = None
            await s.task(service)
    state = await store.get_state("payments")
    assert state is not None
    assert (state.state, state.failure_count) == ("closed", 0)


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
        await s.task(service)
        await anyio.wait_all_tasks_blocked()
        service.error = None
        store.fault = others_fail_meanwhile
        await s.task(service)
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
        await s.task(service)
        await anyio.wait_all_tasks_blocked()
        service.error = None
        store.fault = another_fails_later
        await s.task(service)
    state = await store.get_state("payments")
    assert state is not None
    assert state.failure_count == 2


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
            await s.task(service)
        state = await store.get_state("payments")
        assert state is not None
        states.append(state.state)
    assert states == ["half-open", "half-open", "closed"]


@anyio_test
async def test_a_cancelled_probe_gives_its_turn_back(store: ObservedStore, clock: Clock) -> None:
    await break_it(store)
    clock.now += 30
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        task = s.task(anyio.sleep_forever)
        await anyio.sleep(0.01)
        task.cancel()
        await task
        assert (await s.task(Service())).unwrap() == "fine"


@anyio_test
async def test_a_probe_whose_claim_is_cancelled_gives_its_turn_back(
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


@anyio_test
async def test_a_call_that_is_cancelled_is_nothing_though_its_timeout_passes_as_it_ends() -> None:
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
async def test_a_timeout_of_the_task_is_a_failure_and_a_cancellation_is_nothing(
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
            await s.task(anyio.sleep_forever, timeout=0.001)
        err, _ = await s.task(Service())
        assert isinstance(err, CircuitOpenError)


@anyio_test
async def test_a_timeout_of_a_try_is_a_failure_whatever_is_recorded(store: ObservedStore) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=2, record=KeyError)
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        await s.task(anyio.sleep_forever, retry=Retry(2, delay=0, attempt_timeout=0.001))
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
        await s.task(service)
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
        await s.task(service)
        release.set()
        assert (await success).error is None
        err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)
        await anyio.wait_all_tasks_blocked()
        clock.now += 30
        service.error = None
        assert (await s.task(service)).unwrap() == "fine"
        await failure
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
        await s.task(service)
    async with scope(name="orders", persistence=store, circuit_breaker=breaker) as s:
        err, _ = await s.task(service)
        assert isinstance(err, CircuitOpenError)
        assert err.name == "orders"
    async with scope(name="others", persistence=store, circuit_breaker=breaker) as s:
        err, _ = await s.task(service)
        assert isinstance(err, OSError)


@anyio_test
async def test_a_closed_circuit_makes_no_request_for_a_call(store: ObservedStore) -> None:
    breaker = CircuitBreaker("payments", refresh_interval=1000)
    service = Service()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(1000):
            await s.task(service)
    assert store.requests == ["get_state"]


@anyio_test
async def test_an_open_circuit_makes_no_request_for_a_rejection(store: ObservedStore) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=3, refresh_interval=1000)
    await break_it(store, breaker)
    store.requests.clear()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(1000):
            await s.task(Service())
    assert store.requests == []


@anyio_test
async def test_failures_are_sent_together(store: ObservedStore) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=10_000)
    service = Service()
    service.error = OSError("broken")
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        tasks = [s.task(service) for _ in range(1000)]
        for task in tasks:
            await task
    assert store.requests.count("count_failures") <= 10
    state = await store.get_state("payments")
    assert state is not None
    assert state.failure_count == 1000


@anyio_test
async def test_what_others_did_is_seen_after_the_refresh_interval(
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
            await s.task(service)
            await s.task(service)
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
            await s.task(service)
        store.fault = None
        with anyio.fail_after(5):
            while not any(isinstance(event, CircuitStoreRecovered) for event in events):
                await anyio.sleep(0)
                clock.now += 0.005
                service.error = ValueError("one more")
                await s.task(service)
    state = await store.get_state("payments")
    assert state is not None
    assert state.state == "open"


@anyio_test
async def test_changes_of_state_are_told(store: ObservedStore, clock: Clock) -> None:
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
        await s.task(service)
        await anyio.wait_all_tasks_blocked()
        clock.now += 30
        service.error = None
        await s.task(service)
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
        await s.task(service)
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
