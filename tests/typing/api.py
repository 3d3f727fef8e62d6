"""Right uses of the public API, with the types that checkers must find. Never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any, assert_type

from gogoscope import (
    Cache,
    CircuitBreaker,
    Err,
    LocalCache,
    LockHandle,
    Ok,
    Once,
    Persistence,
    RateLimit,
    Result,
    Retry,
    Task,
    TaskCancelled,
    cached,
    open_persistence,
    scope,
)
from gogoscope.blocking import Client, connect
from gogoscope.persistence import (
    CacheProvider,
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    LockHolder,
    LockProvider,
    RecordCapability,
    Store,
    over_records,
)
from gogoscope.stores import MemoryStore
from gogoscope_dynamodb import DynamoDBAdapter


async def load(number: int, name: str = "") -> float:
    return number / 2


async def text() -> str:
    return ""


def plain(number: int) -> bytes:
    return b""


def value_or_zero(result: Result[float]) -> float:
    return 0.0 if result.error is not None else result.value


async def results() -> None:
    async with scope(retry=3, circuit_breaker=CircuitBreaker("name"), timeout=5) as s:
        task = s.task(load, 1, "name", timeout=2, retry=Retry(4), circuit_breaker=False)
        assert_type(task, Task[float])
        result = await task
        assert_type(result, Ok[float] | Err)
        assert_type(result.unwrap(), float)
        assert_type(result.unwrap_or(None), float | None)
        assert_type(result.unwrap_or(0.0), float)
        same: Result[float] = result
        assert_type(same, Ok[float] | Err)
        assert_type(value_or_zero(result), float)
        if result.error is None:
            assert_type(result.value, float)
        else:
            assert_type(result.error, Exception)
        err, value = await task
        if err is None:
            value.is_integer()
        match result:
            case Ok(_, number):
                number.is_integer()
            case Err(TaskCancelled()):
                pass
            case Err(error):
                assert_type(error, Exception)
        assert_type(s.task(partial(load, name="x"), 1), Task[float])
        assert_type(s.thread(plain, 1), Task[bytes])
        assert_type(await s.all(s.task(text), task), tuple[Ok[str] | Err, Ok[float] | Err])
        assert_type(await s.race([text, text]), Ok[str] | Err)
        assert_type(await s.any([text], stagger=1), Ok[str] | Err)
        assert_type(await s.map(load, [1, 2]), list[Ok[float] | Err])
        async for mapped in s.map(load, numbers()):
            assert_type(mapped, Ok[float] | Err)
        async for item, completed in s.as_completed(load, [1, 2], limit=3):
            assert_type(item, int)
            assert_type(completed, Ok[float] | Err)
        assert_type(s.every(1, text), Task[None])
        assert_type(await s.acquire_lock("key", 5), LockHandle | None)
        async with s.lock("key") as locked:
            assert_type(locked.fencing_token, int)
            assert_type(locked.task(text), Task[str])
        async with s.child(concurrency=2) as inner:
            assert_type(inner.task(text), Task[str])
        assert_type(await s.enter(open_persistence("memory:")), Store)


async def numbers() -> AsyncIterator[int]:
    yield 1


async def value_from_inside_a_block() -> float:
    async with scope() as s:
        return (await s.task(load, 1)).unwrap()


def stores(memory: MemoryStore, dynamodb: DynamoDBAdapter) -> None:
    for store in (memory, dynamodb):
        locks: LockProvider = store
        circuit_breakers: CircuitBreakerStateProvider = store
        cache: CacheProvider = store
        scope(persistence=Persistence(locks, circuit_breakers, cache))


class RecordNumbers(RecordCapability):
    """A capability of somebody else."""


async def an_opened_store_has_all_capabilities() -> None:
    async with open_persistence("memory:") as store:
        assert_type(store, Store)
        assert_type(await store.acquire("key", 5), LockHandle | None)
        assert_type(await store.circuits(), dict[str, CircuitBreakerState])
        assert_type(await store.locks(), dict[str, LockHolder])
        assert_type(store.capability(LockProvider), LockProvider)
        assert_type(Persistence.of(store).capability(RecordNumbers), RecordNumbers)
        assert_type(over_records(RecordNumbers, store), RecordNumbers)
        assert_type(await store.has("key"), bool)
        async for key in store.iterate_keys():
            assert_type(key, str)
        scope(persistence=Persistence(locks=store, circuit_breakers=store, cache=store))


async def values_from_the_cache(store: MemoryStore) -> None:
    cache = Cache(store, local=LocalCache(max_items=10, ttl=0.5))
    provider: CacheProvider = cache
    assert_type(await cache.get_or_set("key", load, 60, 1, "name"), float)
    assert_type(await provider.set("key", 1, if_absent=True), bool)
    assert_type(await provider.get_many(["key"]), dict[str, Any])
    async for key in cache.iterate_keys("user:*"):
        assert_type(key, str)
    entry = await cache.get_entry("key")
    if entry is not None:
        assert_type(entry.left, float)

    @cached(cache, 60, key=lambda number: f"number:{number}")
    async def twice(number: int) -> float:
        return number * 2

    assert_type(await twice(1), float)
    async with scope(persistence=store) as s:
        assert_type(s.cache, Cache)
        assert_type(await s.cache.get_or_set("key", text, None, stale_if_error=5), str)

        @s.cached(60)
        async def name_of(number: int, *, formal: bool = False) -> str:
            return ""

        assert_type(await name_of(1, formal=True), str)
        assert_type(s.task(name_of, 1), Task[str])


def durations() -> None:
    minute = timedelta(minutes=1)
    policy = Retry(delay=minute, max_elapsed=minute, attempt_timeout=2)
    assert_type(policy.max_elapsed, float | None)
    breaker = CircuitBreaker(reset_timeout=minute, window=minute, slow_call=1, slow_rate=0.5)
    assert_type(breaker.reset_timeout, float)
    assert_type(breaker.window, float | None)


@CircuitBreaker("guarded")
async def guarded(number: int, *, name: str = "") -> float:
    return number / 2


async def breaker_without_a_scope(store: CircuitBreakerStateProvider) -> None:
    breaker = CircuitBreaker("name", failure_rate=0.5, record_result=lambda value: value is None)
    assert_type(await breaker.call(load, 1, "name"), float)
    assert_type(await Retry(3).call(breaker.call, load, 1, "name"), float)
    assert_type(await guarded(1, name="x"), float)
    assert_type(await breaker.state(), CircuitBreakerState)
    assert_type(await breaker.force_open(store), CircuitBreakerState)
    assert_type(await breaker.force_close(), CircuitBreakerState)
    assert_type(await breaker.reset(), CircuitBreakerState)
    assert_type(await store.circuits("pay*"), dict[str, CircuitBreakerState])
    async with scope() as s:
        assert_type(s.task(guarded, 1), Task[float])


def without_an_event_loop(limit: RateLimit) -> None:
    with connect("memory:") as db:
        assert_type(db, Client)
        assert_type(db.call(half, 1), float)
        assert_type(db.call(half, 1, retry=3, once=Once("key", 60)), float)
        with db.lock("key", wait=timedelta(seconds=1)) as lock:
            assert_type(lock.fencing_token, int)
            assert_type(lock.extend(5), bool)
        assert_type(db.cache.get_or_set("key", half, 60, 1), float)
        with db.acquire(limit) as permit:
            permit.spent(1)
        with db.claim("key", 60) as run:
            assert_type(run.done, bool)
        assert_type(db.once(lambda number: f"{number}", 60)(half)(1), float)
        assert_type(db.guarded(retry=2)(half)(1), float)
        assert_type(db.cached(60)(half)(1), float)


def half(number: int) -> float:
    return number / 2
