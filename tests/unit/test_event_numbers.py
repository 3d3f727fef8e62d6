"""The numbers of events: what tells two tasks of one name apart, and what is inside of what."""

from __future__ import annotations

import pickle
from typing import Any

import anyio
import pytest

from gogoscope import (
    Cache,
    CircuitBreaker,
    LocalCache,
    Once,
    Retry,
    StoreConnectionError,
    scope,
)
from gogoscope.events import (
    CacheHit,
    CacheLoaded,
    CacheLoadFailed,
    CacheLoadStarted,
    CacheMissed,
    CircuitProbeEnded,
    CircuitProbeStarted,
    Event,
    JobEnded,
    JobSaved,
    JobStarted,
    LockAcquired,
    LockReleased,
    LockTimedOut,
    LockWaiting,
    LockWaitStopped,
    RetryScheduled,
    RunAbandoned,
    RunCompleted,
    RunStarted,
    ScopeEnded,
    ScopeStarted,
    StoreAsked,
    TaskFailed,
    TaskQueued,
    TaskStarted,
    TaskStopped,
    TaskSucceeded,
    new_id,
    subscribe,
)
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def fine() -> str:
    return "fine"


async def broken() -> None:
    raise ValueError("broken")


def of(events: list[Event], *kinds: type[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kinds)]


async def test_two_tasks_of_one_name_are_told_apart() -> None:
    events: list[Event] = []
    async with scope(name="orders", on_event=events.append) as s:
        _ = await s.all(s.task(fine), s.task(fine))
        _ = (await s.task(broken, retry=Retry(2, delay=0))).error
    started, ended = of(events, TaskStarted), of(events, TaskSucceeded, TaskFailed)
    assert len({event.id for event in started}) == 3
    assert {event.id for event in started} == {event.id for event in ended}
    assert of(events, RetryScheduled)[0].id == of(events, TaskFailed)[0].id
    (whole,) = {event.id for event in of(events, ScopeStarted, ScopeEnded)}
    assert {event.parent for event in started + ended} == {whole}


async def test_the_numbers_tell_what_is_inside_of_what() -> None:
    events: list[Event] = []

    async def outer() -> None:
        async with scope(name="inner", persistence=MemoryStore()) as s, s.lock("a") as locked:
            await locked.call(fine)

    stop = subscribe(events.append)
    async with scope(name="outer") as s:
        await s.call(outer)
    stop()
    above = {event.id: event.parent for event in events if event.id and event.parent}
    names = {event.id: f"scope {event.scope}" for event in of(events, ScopeStarted)}
    names |= {event.id: f"task {event.task}" for event in of(events, TaskStarted)}
    names |= {event.id: f"lock {event.key}" for event in of(events, LockAcquired)}
    (number,) = (event.id for event in of(events, TaskStarted) if event.task == "fine")
    line = []
    while number:
        line.append(names[number].rsplit(".", 1)[-1])
        number = above.get(number, 0)
    assert line == [
        "task fine",
        "scope inner holding a",
        "lock a",
        "scope inner",
        "outer",
        "scope outer",
    ]


async def test_a_lock_tells_who_is_waited_for() -> None:
    events: list[Event] = []

    async def hold(held: anyio.Event, end: anyio.Event) -> None:
        async with s.lock("a"):
            held.set()
            await end.wait()

    async def wait() -> None:
        async with s.lock("a"):
            pass

    held, end = anyio.Event(), anyio.Event()
    async with scope(persistence=MemoryStore(), on_event=events.append) as s:
        holding = s.task(hold, held, end)
        await held.wait()
        waiting = s.task(wait)
        while not of(events, LockWaiting):
            await anyio.sleep(0)
        end.set()
        _ = await s.all(holding, waiting)
    first, second = of(events, LockAcquired)
    (waited,) = of(events, LockWaiting)
    assert waited.held_by == first.id != second.id
    assert waited.id == second.id
    assert waited.holder
    assert [event.id for event in of(events, LockReleased)] == [first.id, second.id]


async def test_a_lock_that_is_not_free_in_time_is_told() -> None:
    events: list[Event] = []
    async with scope(persistence=MemoryStore(), on_event=events.append) as s:
        assert await s.acquire_lock("a", 5)
        assert await s.acquire_lock("a", 5) is None
        assert await s.acquire_lock("a", 5, wait=0.01) is None
    (waited,) = of(events, LockWaiting)
    at_once, later = of(events, LockTimedOut)
    assert waited.id == later.id != at_once.id
    assert later.seconds >= 0.01


async def test_a_wait_for_a_lock_that_is_cancelled_is_told() -> None:
    events: list[Event] = []

    async def wait() -> None:
        async with s.lock("a"):
            pass

    async with scope(persistence=MemoryStore(), on_event=events.append) as s:
        assert await s.acquire_lock("a", 5)
        waiting = s.task(wait)
        while not of(events, LockWaiting):
            await anyio.sleep(0)
        waiting.cancel()
        await waiting.wait()
    (stopped,) = of(events, LockWaitStopped)
    assert stopped.id == of(events, LockWaiting)[0].id
    assert stopped.error is None


async def test_a_task_that_waits_for_a_slot_is_told_before_it_starts() -> None:
    events: list[Event] = []

    async def work() -> None:
        await anyio.sleep(0.01)

    async with scope(concurrency=1, on_event=events.append) as s:
        _ = await s.all(s.task(work, name="first"), s.task(work, name="second"))
    told = of(events, TaskQueued, TaskStarted, TaskSucceeded)
    assert [(type(event), event.task) for event in told] == [
        (TaskStarted, "first"),
        (TaskQueued, "second"),
        (TaskSucceeded, "first"),
        (TaskStarted, "second"),
        (TaskSucceeded, "second"),
    ]
    assert len({event.id for event in told}) == 2


async def test_a_task_that_is_cancelled_in_the_line_never_starts() -> None:
    events: list[Event] = []
    async with scope(concurrency=1, on_event=events.append) as s:
        s.task(anyio.sleep_forever, name="first")
        second = s.task(fine)
        while not of(events, TaskQueued):
            await anyio.sleep(0)
        second.cancel()
        await second.wait()
        s.cancel()
    told = [
        event for event in of(events, TaskQueued, TaskStarted, TaskStopped) if "fine" in repr(event)
    ]
    assert [type(event) for event in told] == [TaskQueued, TaskStopped]


async def test_a_cache_tells_of_hits_misses_and_loads() -> None:
    events: list[Event] = []

    async with scope(persistence=MemoryStore(), on_event=events.append) as s:
        assert await s.cache.get_or_set("a", fine, 60) == "fine"
        assert await s.cache.get_or_set("a", fine, 60) == "fine"
        with pytest.raises(ValueError, match="broken"):
            await s.cache.get_or_set("b", broken, 60)
        assert await s.cache.get("a") == "fine"
        assert await s.cache.get("c", 1) == 1
        assert await s.cache.get_many(["a", "c"]) == {"a": "fine"}
    kinds = (CacheHit, CacheMissed, CacheLoadStarted, CacheLoaded, CacheLoadFailed)
    told = [(type(event).__name__, event.key) for event in of(events, *kinds)]
    assert told == [
        ("CacheMissed", "a"),
        ("CacheLoadStarted", "a"),
        ("CacheLoaded", "a"),
        ("CacheHit", "a"),
        ("CacheMissed", "b"),
        ("CacheLoadStarted", "b"),
        ("CacheLoadFailed", "b"),
        ("CacheHit", "a"),
        ("CacheMissed", "c"),
        ("CacheHit", "a"),
        ("CacheMissed", "c"),
    ]
    loads = of(events, CacheLoadStarted, CacheLoaded, CacheLoadFailed)
    assert loads[0].id == loads[1].id != loads[2].id == loads[3].id != 0


async def test_a_cache_tells_which_layer_has_a_value() -> None:
    events: list[Event] = []
    cache = Cache(MemoryStore(), local=LocalCache(ttl=60))
    stop = subscribe(events.append)
    for _ in range(2):
        assert await cache.get_or_set("a", fine, 60) == "fine"
        assert await cache.get("a") == "fine"
    stop()
    assert [event.local for event in of(events, CacheHit)] == [False, True, True]
    assert {event.scope for event in events} == {""}


async def test_a_store_is_told_of_only_while_somebody_listens() -> None:
    events: list[Event] = []
    store = MemoryStore()
    async with scope(persistence=store) as s, s.lock("a"):
        await s.cache.set("b", 1)
    assert events == []
    async with scope(name="orders", persistence=store, on_event=events.append) as s:
        async with s.lock("a"):
            await s.cache.set("b", 1)
        async with s.claim("c", keep=60):
            pass
    asked = of(events, StoreAsked)
    assert [event.request for event in asked] == [
        "claim_lock",
        "set",
        "release_lock",
        "claim_run",
        "complete_run",
    ]
    assert {event.error for event in asked} == {None}


async def test_a_request_that_fails_is_told_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    store = MemoryStore()

    async def down(*args: object, **kwargs: object) -> None:
        raise StoreConnectionError("cut off")

    monkeypatch.setattr(store, "set", down)
    async with scope(persistence=store, on_event=events.append) as s:
        with pytest.raises(StoreConnectionError):
            await s.cache.set("b", 1)
    (asked,) = of(events, StoreAsked)
    assert isinstance(asked.error, StoreConnectionError)


async def test_a_run_a_job_and_a_probe_have_numbers() -> None:
    events: list[Event] = []
    breaker = CircuitBreaker("bank", failure_threshold=1, reset_timeout=0.001)
    async with scope(persistence=MemoryStore(), on_event=events.append) as s:
        assert await s.call(fine, once=Once("a", keep=60)) == "fine"
        _ = (await s.task(broken, once=Once("b", keep=60))).error
        async with s.job("c") as job:
            await job.save(1)
        _ = (await s.task(broken, circuit_breaker=breaker)).error
        await anyio.sleep(0.05)
        assert await s.call(fine, circuit_breaker=breaker) == "fine"
    for kinds in (
        (RunStarted, RunCompleted, RunAbandoned),
        (JobStarted, JobSaved, JobEnded),
        (CircuitProbeStarted, CircuitProbeEnded),
    ):
        told = of(events, *kinds)
        assert [type(event) for event in told if isinstance(event, kinds[-1])]
        numbers = [event.id for event in told]
        assert all(numbers)
        assert len(set(numbers)) == len(of(events, kinds[0]))
    scopes = {
        event.scope.split()[-2]: event for event in of(events, ScopeStarted) if " " in event.scope
    }
    assert scopes["job"].parent == of(events, JobStarted)[0].id


async def test_no_number_is_drawn_while_nobody_listens() -> None:
    before = new_id()
    async with scope(persistence=MemoryStore(), concurrency=1) as s:
        async with s.lock("a") as locked:
            await locked.call(fine)
        await s.cache.get_or_set("a", fine, 60)
        await s.call(fine, once=Once("a", keep=60))
    assert new_id() == before + 1


def test_the_numbers_do_not_count_when_events_are_compared() -> None:
    one, other = TaskStarted("s", "t", id=1, parent=2), TaskStarted("s", "t")
    assert one == other
    assert hash(one) == hash(other)
    assert (one.id, one.parent, other.id, other.parent) == (1, 2, 0, 0)
    again = pickle.loads(pickle.dumps(one))
    assert (again, again.id, again.parent) == (one, 1, 2)
    assert repr(one) == "TaskStarted(scope='s', task='t', id=1, parent=2)"
    assert repr(other) == "TaskStarted(scope='s', task='t')"
    match one:
        case TaskStarted("s", "t", id=1, parent=2):
            pass
        case _:
            pytest.fail("it does not match")
    with pytest.raises(AttributeError, match="cannot be changed"):
        one.id = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="takes scope, task, each once"):
        TaskStarted("s", "t", 3)  # type: ignore[call-arg]
