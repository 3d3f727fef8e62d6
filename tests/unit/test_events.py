"""Events: what scopes tell, to whom, and that telling disturbs nobody."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio
import pytest

from gogoscope import CircuitBreaker, Retry, StoreConnectionError, scope
from gogoscope.events import (
    CacheStoreFailed,
    CacheStoreRecovered,
    CircuitCallRejected,
    CircuitStateChanged,
    CircuitStoreFailed,
    CircuitStoreRecovered,
    Event,
    LockAcquired,
    LockReleased,
    RetryScheduled,
    ScopeCancelled,
    ScopeEnded,
    ScopeStarted,
    TaskFailed,
    TaskStarted,
    TaskStopped,
    TaskSucceeded,
    TaskTimedOut,
    log_events,
    subscribe,
    subscribers,
)
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_subscription_stays() -> Iterator[None]:
    yield
    assert subscribers == []


async def fine() -> None:
    pass


async def broken() -> None:
    raise ValueError("broken")


async def test_a_scope_tells_of_itself_and_its_tasks() -> None:
    events: list[Event] = []
    async with scope(name="orders", on_event=events.append) as s:
        _ = (await s.task(fine)).error
        _ = (await s.task(broken, retry=Retry(2, delay=0))).error
        _ = (await s.task(anyio.sleep, 10, timeout=0.001, name="slow")).error
        stopped = s.task(anyio.sleep_forever, name="stopped")
        await anyio.wait_all_tasks_blocked()
        stopped.cancel("enough")
        await stopped
        s.cancel("closing")
    told = [(type(event), getattr(event, "task", None)) for event in events]
    assert told == [
        (ScopeStarted, None),
        (TaskStarted, "fine"),
        (TaskSucceeded, "fine"),
        (TaskStarted, "broken"),
        (RetryScheduled, "broken"),
        (TaskFailed, "broken"),
        (TaskStarted, "slow"),
        (TaskTimedOut, "slow"),
        (TaskFailed, "slow"),
        (TaskStarted, "stopped"),
        (TaskStopped, "stopped"),
        (ScopeCancelled, None),
        (ScopeEnded, None),
    ]
    assert {event.scope for event in events} == {"orders"}
    reasons = [event.reason for event in events if isinstance(event, TaskStopped | ScopeCancelled)]
    assert reasons == ["enough", "closing"]
    with pytest.raises(AttributeError, match="cannot be changed"):
        events[0].scope = "other"  # type: ignore[misc]


async def test_a_scope_tells_of_its_locks() -> None:
    events: list[Event] = []
    async with scope(persistence=MemoryStore(), on_event=events.append) as s:
        handle = await s.acquire_lock("a", 5)
        assert handle is not None
        await handle.release()
        async with s.lock("b") as locked:
            token = locked.fencing_token
    acquired = [event for event in events if isinstance(event, LockAcquired)]
    released = [event for event in events if isinstance(event, LockReleased)]
    assert [(event.key, event.fencing_token) for event in acquired] == [
        ("a", handle.fencing_token),
        ("b", token),
    ]
    assert [(event.key, event.freed) for event in released] == [("a", True), ("b", True)]


async def test_the_end_of_a_scope_tells_what_leaves_it() -> None:
    events: list[Event] = []
    with pytest.raises(KeyError):
        async with scope(on_event=events.append):
            raise KeyError("body")
    ended = [event for event in events if isinstance(event, ScopeEnded)]
    assert isinstance(ended[0].error, KeyError)
    assert ended[0].seconds >= 0


async def test_a_subscription_hears_every_scope_of_the_process_until_it_ends() -> None:
    events: list[Event] = []
    unsubscribe = subscribe(events.append)
    async with scope(name="a"), scope(name="b"):
        pass
    unsubscribe()
    unsubscribe()
    async with scope(name="c"):
        pass
    assert [event.scope for event in events if isinstance(event, ScopeStarted)] == ["a", "b"]


async def test_an_observer_that_fails_disturbs_no_task(caplog: pytest.LogCaptureFixture) -> None:
    def observer(event: Event) -> None:
        raise RuntimeError("observer")

    unsubscribe = subscribe(observer)
    async with scope(on_event=observer) as s:
        assert (await s.task(fine)).error is None
    unsubscribe()
    assert "observer" in caplog.text


async def test_a_child_tells_the_observer_of_its_parent() -> None:
    events: list[Event] = []
    async with scope(name="outer", on_event=events.append) as s, s.child(name="inner"):
        pass
    assert [event.scope for event in events if isinstance(event, ScopeStarted)] == [
        "outer",
        "inner",
    ]


async def test_events_go_to_the_log_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scope() as s:
        _ = (await s.task(fine)).error
    assert not caplog.records
    stop = log_events("orders.log", logging.INFO)
    async with scope(name="orders") as s:
        _ = (await s.task(fine)).error
        _ = (await s.task(broken)).error
    stop()
    levels = {record.getMessage().split()[0]: record.levelname for record in caplog.records}
    assert levels == {
        "ScopeStarted": "INFO",
        "TaskStarted": "INFO",
        "TaskSucceeded": "INFO",
        "TaskFailed": "WARNING",
        "ScopeEnded": "INFO",
    }
    assert {record.name for record in caplog.records} == {"orders.log"}


def levels_of(records: list[logging.LogRecord]) -> list[tuple[str, str]]:
    return [(record.getMessage().split()[0], record.levelname) for record in records]


async def test_in_the_log_a_circuit_warns_when_it_opens_and_closes_and_not_for_each_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    stop = log_events("orders.log", logging.INFO)
    async with scope(persistence=MemoryStore()) as s:
        breaker = CircuitBreaker("bank", failure_threshold=1, reset_timeout=60)
        _ = (await s.task(broken, circuit_breaker=breaker)).error
        caplog.clear()
        for _ in range(3):
            _ = (await s.task(fine, circuit_breaker=breaker)).error
    stop()
    told = [told for told in levels_of(caplog.records) if told[1] != "INFO"]
    assert told == [("CircuitCallRejected", "DEBUG"), ("TaskFailed", "DEBUG")] * 3


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (CircuitStateChanged("s", "bank", "closed", "open"), "WARNING"),
        (CircuitStateChanged("s", "bank", "closed", "forced-open"), "WARNING"),
        (CircuitStateChanged("s", "bank", "half-open", "closed"), "WARNING"),
        (CircuitStateChanged("s", "bank", "open", "half-open"), "INFO"),
        (CircuitStateChanged("s", "bank", "half-open", "open"), "INFO"),
        (CircuitCallRejected("s", "bank", 3), "DEBUG"),
        (CircuitStoreFailed("s", "bank", StoreConnectionError("cut off")), "WARNING"),
        (CircuitStoreRecovered("s", "bank"), "WARNING"),
        (CacheStoreFailed("s", StoreConnectionError("cut off")), "WARNING"),
        (CacheStoreRecovered("s"), "WARNING"),
    ],
)
def test_an_outage_is_in_the_log_when_it_begins_and_when_it_ends(
    event: Event, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stop = log_events("orders.log", logging.INFO)
    try:
        for subscriber in subscribers:
            subscriber(event)
    finally:
        stop()
    assert levels_of(caplog.records) == [(type(event).__name__, level)]


def test_an_observer_must_be_a_function() -> None:
    with pytest.raises(TypeError, match="observer must be a function"):
        subscribe(3)  # type: ignore[arg-type]


class Equal:
    """An observer that says that it is any other one."""

    def __init__(self) -> None:
        self.told: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.told.append(event)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    __hash__ = None  # type: ignore[assignment] # nobody has to ask for it


async def test_a_subscription_ends_alone() -> None:
    first, second = Equal(), Equal()
    ends = [subscribe(first), subscribe(second), subscribe(second)]
    ends[1]()
    ends[1]()
    async with scope():
        pass
    assert len(first.told) == len(second.told) == 2
    ends[0]()
    ends[2]()
