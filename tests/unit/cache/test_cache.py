"""``get_or_set``: one load for many callers, whoever is cancelled, fails or is slow."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest

from gogoscope import (
    Cache,
    CapabilityNotSupportedError,
    ConfigurationError,
    CorruptRecordError,
    LocalCache,
    LockHandle,
    Persistence,
    RecordTooLargeError,
    StoreConnectionError,
    cached,
    scope,
)
from gogoscope.cache.outages import OUTAGE_SECONDS, STORE_SECONDS, state_of
from gogoscope.events import (
    CacheLoaded,
    CacheStaleGiven,
    CacheStoreFailed,
    CacheStoreRecovered,
    Event,
)
from gogoscope.persistence.protocols.cache import CacheEntry, CacheProvider
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

Backend = Literal["asyncio", "trio"]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    return found


def in_virtual_time(backend: Backend, program: Callable[[], Awaitable[None]]) -> float:
    """Run a program, and give the virtual seconds that it took."""
    clock = VirtualClock(start=1_800_000_000.0)
    clock.run(program, backend=backend)
    return clock.elapsed()


class Source:
    """What is loaded; it counts how often, and how many loads run at once."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.loads = 0
        self.running = 0
        self.most_running = 0
        self.error: Exception | None = None

    async def load(self, *args: Any) -> dict[str, Any]:
        self.loads += 1
        number = self.loads
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await anyio.sleep(self.seconds)
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return {"number": number, "args": list(args)}


class FaultyStore(MemoryStore):
    """A store whose requests are counted and may fail or hang, by the names of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.failures: dict[str, Exception] = {}
        self.hanging = False

    async def _request(self, name: str) -> None:
        self.requests[name] += 1
        await anyio.lowlevel.checkpoint()
        if self.hanging:
            await anyio.sleep_forever()
        if error := self.failures.get(name) or self.failures.get("*"):
            raise error

    async def get_entry(self, key: str, **options: bool) -> CacheEntry | None:
        await self._request("get_entry")
        return await super().get_entry(key, **options)

    async def set(self, key: str, *args: Any, **options: Any) -> bool:
        await self._request("set")
        return await super().set(key, *args, **options)

    async def delete(self, key: str) -> bool:
        await self._request("delete")
        return await super().delete(key)

    async def acquire(self, key: str, ttl: Any, owner: str | None = None) -> LockHandle | None:
        await self._request("acquire")
        return await super().acquire(key, ttl, owner)

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        await self._request("release_lock")
        return await super().release_lock(key, nonce, in_time=in_time)

    async def renew_lock(self, *args: Any, **kwargs: Any) -> Any:
        await self._request("renew_lock")
        return await super().renew_lock(*args, **kwargs)


def beside(store: MemoryStore) -> Cache:
    """Return the cache of what could be another process: it shares nothing but the records."""
    return Cache(store.with_prefix(""))


async def no_lock_is_held(store: MemoryStore, key: str = "k") -> bool:
    return await store.holder(f"get_or_set:{key}") is None


DOWN = StoreConnectionError("the store is down")


def test_a_value_is_loaded_once_and_then_found(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source()
        expected = {"number": 1, "args": [7, "x"]}
        assert await cache.get_or_set("k", source.load, 60, 7, "x") == expected
        assert await cache.get_or_set("k", source.load, 60, 8, "y") == expected
        assert await cache.get("k") == expected
        assert source.loads == 1

    in_virtual_time(backend, program)


def test_a_value_is_fresh_for_its_time_and_no_longer(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source(0)
        await cache.get_or_set("k", source.load, 10)
        await anyio.sleep(9.99)
        await cache.get_or_set("k", source.load, 10)
        assert source.loads == 1
        await anyio.sleep(0.02)
        await cache.get_or_set("k", source.load, None)
        assert source.loads == 2
        await anyio.sleep(1_000_000)
        await cache.get_or_set("k", source.load, 10)
        assert source.loads == 2

    in_virtual_time(backend, program)


def test_many_callers_of_a_cold_key_make_one_load_and_own_what_they_get(backend: Backend) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source()
        caches = [Cache(store), Cache(store), beside(store), beside(store)]
        found: list[Any] = []

        async def call(number: int) -> None:
            found.append(await caches[number % 4].get_or_set("k", source.load, 60))

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(call, number)
        assert source.loads == 1
        assert found == [{"number": 1, "args": []}] * 200
        for value in found:
            value["args"].append("mine")
        assert found == [{"number": 1, "args": ["mine"]}] * 200
        assert await store.get("k") == {"number": 1, "args": []}
        assert await no_lock_is_held(store)

    assert in_virtual_time(backend, program) < 1


def test_callers_of_different_keys_do_not_wait_for_each_other(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source(1)
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(cache.get_or_set, f"k{number}", source.load, 60)
        assert source.loads == source.most_running == 20

    assert in_virtual_time(backend, program) < 1.5


def test_an_error_is_raised_for_all_who_waited_and_is_not_kept(backend: Backend) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source()
        cache = Cache(store)
        source.error = LookupError("no such user")
        raised: list[BaseException] = []

        async def call() -> None:
            with pytest.raises(LookupError, match="no such user") as caught:
                await cache.get_or_set("k", source.load, 60)
            raised.append(caught.value)

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(call)
        assert source.loads == 1
        assert len(raised) == 50
        assert len(list(_frames(raised[0]))) < 30
        assert await store.keys() == []
        assert await no_lock_is_held(store)
        source.error = None
        assert (await cache.get_or_set("k", source.load, 60))["number"] == 2

    in_virtual_time(backend, program)


def test_who_comes_after_an_error_has_a_load_of_its_own(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source()
        source.error = LookupError("no such user")
        found: list[int] = []

        async def call_until_it_works() -> None:
            try:
                value = await cache.get_or_set("k", source.load, 60)
            except LookupError:
                source.error = None
                value = await cache.get_or_set("k", source.load, 60)
            found.append(value["number"])

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(call_until_it_works)
        assert found == [2] * 10

    in_virtual_time(backend, program)


def test_a_value_that_comes_between_the_look_and_the_lock_is_found(backend: Backend) -> None:
    class Racing(MemoryStore):
        async def acquire(self, key: str, ttl: Any, owner: str | None = None) -> LockHandle | None:
            await self.set("k", "theirs")
            return await super().acquire(key, ttl, owner)

    async def program() -> None:
        source = Source()
        found: object = await Cache(Racing()).get_or_set("k", source.load, 60)
        assert (found, source.loads) == ("theirs", 0)

    in_virtual_time(backend, program)


def _frames(error: BaseException) -> Any:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


@pytest.mark.parametrize(("negative_ttl", "loads"), [(None, 1), (5, 2), (0, 3)])
def test_none_is_kept_as_long_as_negative_ttl_says(
    backend: Backend, negative_ttl: float | None, loads: int
) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())
        calls: list[str] = []

        async def find(name: str) -> str | None:
            calls.append(name)
            return None

        for pause in (4.9, 0.2, 0.2):
            value = await cache.get_or_set("k", find, 60, "x", negative_ttl=negative_ttl)
            assert value is None
            await anyio.sleep(pause)
        assert await cache.has("k") is (negative_ttl != 0)
        assert len(calls) == loads

    in_virtual_time(backend, program)


def test_none_that_is_not_kept_removes_the_old_value(backend: Backend) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())
        answers: list[int | None] = [1, None, 3]

        async def find() -> int | None:
            return answers.pop(0)

        get = partial(cache.get_or_set, "k", find, 1, stale_if_error=60, negative_ttl=0)
        assert await get() == 1
        await anyio.sleep(2)
        assert await get() is None
        assert await cache.has("k") is False
        assert await get() == 3

    in_virtual_time(backend, program)


@pytest.mark.anyio
@pytest.mark.parametrize("others", ["here", "beside"])
async def test_a_caller_cancelled_at_any_await_takes_the_value_from_nobody(others: str) -> None:
    async def attempt_at(n: int) -> CancelledAt:
        store, source = FaultyStore(), Source(0)
        cache = Cache(store)
        other = cache if others == "here" else beside(store)
        attempt = CancelledAt(cache.get_or_set("k", source.load, 60), n)
        found: list[Any] = []

        async def call() -> None:
            found.append(await other.get_or_set("k", source.load, 60))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(attempt.run)
                await anyio.lowlevel.checkpoint()
                for _ in range(3):
                    group.start_soon(call)
        assert len(found) == 3
        assert found == [found[0]] * 3
        assert source.loads <= 2
        assert source.most_running == 1
        assert await no_lock_is_held(store)
        assert "k" not in state_of(store).flights
        return attempt

    assert await cancel_everywhere(attempt_at) >= 5


@pytest.mark.anyio
async def test_a_cancelled_waiter_disturbs_nobody() -> None:
    async def attempt_at(n: int) -> CancelledAt:
        store, source = FaultyStore(), Source(0.01)
        cache = Cache(store)
        attempt = CancelledAt(cache.get_or_set("k", source.load, 60), n)
        found: list[Any] = []

        async def call() -> None:
            found.append(await cache.get_or_set("k", source.load, 60))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.lowlevel.checkpoint()
            group.start_soon(attempt.run)
            group.start_soon(call)
        assert found == [{"number": 1, "args": []}] * 2
        assert "k" not in state_of(store).flights
        return attempt

    assert await cancel_everywhere(attempt_at) >= 2


def test_when_every_caller_is_cancelled_nothing_is_left_behind(backend: Backend) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(10)
        cache = Cache(store)
        with anyio.move_on_after(1):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(cache.get_or_set, "k", source.load, 60)
        assert source.loads == 1
        assert source.running == 0
        assert await no_lock_is_held(store)
        assert "k" not in state_of(store).flights

    in_virtual_time(backend, program)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_at_any_time_leaves_no_lock() -> None:
    for fails in (True, False):
        for steps in range(40):
            store, source = FaultyStore(), Source(0)
            source.error = LookupError() if fails else None
            call = Cache(store).get_or_set("k", source.load, 60)
            task = asyncio.ensure_future(call)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await no_lock_is_held(store), steps


def test_a_load_longer_than_the_lease_is_still_the_only_one(backend: Backend) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(30)
        async with anyio.create_task_group() as group:
            for cache in (Cache(store), beside(store)):
                group.start_soon(partial(cache.get_or_set, "k", source.load, 60, lease=3))
        assert source.loads == 1

    in_virtual_time(backend, program)


def test_a_loader_that_died_is_waited_for_no_longer_than_its_lease(backend: Backend) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(0)
        assert await store.acquire("get_or_set:k", 10) is not None  # and it is never renewed
        async with anyio.create_task_group() as group:
            for cache in (Cache(store), Cache(store), beside(store)):
                group.start_soon(cache.get_or_set, "k", source.load, 60)
            await anyio.sleep(9.9)
            assert source.loads == 0
        assert source.loads == 1

    assert 9.9 < in_virtual_time(backend, program) < 11


def test_a_value_that_somebody_else_loads_is_found_while_waiting(backend: Backend) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source()
        cache = Cache(store)
        async with anyio.create_task_group() as group:

            async def call() -> None:
                found: object = await cache.get_or_set("k", source.load, 60)
                assert found == "theirs"

            handle = await store.acquire("get_or_set:k", 600)
            assert handle is not None
            group.start_soon(call)
            await anyio.sleep(5)
            await store.set("k", "theirs")
        assert source.loads == 0

    assert in_virtual_time(backend, program) < 6


@pytest.mark.parametrize("length", [3, 256, 257, 2_000])
def test_keys_of_any_length_are_locked(backend: Backend, length: int) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source()
        async with anyio.create_task_group() as group:
            for cache in (Cache(store), beside(store)):
                group.start_soon(cache.get_or_set, "k" * length, source.load, 60)
        assert source.loads == 1

    in_virtual_time(backend, program)


def test_without_locks_one_process_still_loads_once(backend: Backend) -> None:
    async def program() -> None:
        source = Source()
        cache = Cache(Persistence(cache=MemoryStore()))
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(cache.get_or_set, "k", source.load, 60)
        assert source.loads == 1

    in_virtual_time(backend, program)


def test_a_load_that_waits_for_itself_is_an_error_and_no_deadlock(backend: Backend) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())

        async def outer() -> int:
            return await cache.get_or_set("k", inner, 60)

        async def inner() -> int:
            async with scope() as s:
                return (await s.task(cache.get_or_set, "k", inner, 60)).unwrap()

        with anyio.fail_after(5), pytest.raises(RuntimeError, match="'k' waits for its own value"):
            await outer()
        assert await cache.get_or_set("other", Source(0).load, 60) == {"number": 1, "args": []}

    in_virtual_time(backend, program)


@pytest.mark.parametrize("ring", ["ab", "abc"])
def test_loads_that_wait_for_each_other_are_an_error_and_no_deadlock(
    backend: Backend, ring: str
) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())
        errors: list[str] = []

        async def load(key: str) -> Any:
            await anyio.sleep(1)
            following = ring[(ring.index(key) + 1) % len(ring)]
            async with scope() as s:
                return (await s.task(cache.get_or_set, following, load, 60, following)).unwrap()

        async def call(key: str) -> None:
            with pytest.raises(RuntimeError, match="waits for its own value") as caught:
                await cache.get_or_set(key, load, 60, key)
            errors.append(str(caught.value))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for key in ring:
                    group.start_soon(call, key)
        assert len(errors) == len(ring)
        assert await cache.get_or_set("a", Source(0).load, 60) == {"number": 1, "args": []}

    in_virtual_time(backend, program)


def test_loads_that_wait_for_the_same_load_are_no_circle(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source(1)

        async def half(key: str) -> Any:
            await anyio.sleep(1)
            return await cache.get_or_set("shared", source.load, 60)

        async def whole() -> list[Any]:
            async with scope() as s:
                tasks = [s.task(cache.get_or_set, key, half, 60, key) for key in "abab"]
                return [result.unwrap() for result in await s.all(*tasks)]

        async with anyio.create_task_group() as group:
            for key in "ab":
                group.start_soon(cache.get_or_set, key, half, 60, key)
            assert await cache.get_or_set("whole", whole, 60) == [{"number": 1, "args": []}] * 4

    in_virtual_time(backend, program)


def test_a_load_may_ask_for_other_keys(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source()

        async def outer() -> list[Any]:
            return [await cache.get_or_set(f"part {n}", source.load, 60, n) for n in range(3)]

        assert len(await cache.get_or_set("whole", outer, 60)) == 3

    in_virtual_time(backend, program)


@pytest.mark.parametrize("failing", ["*", "get_entry", "acquire", "set", "release_lock"])
def test_whatever_request_fails_the_function_is_called(
    backend: Backend, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source()
        store.failures[failing] = DOWN
        cache = Cache(store)
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(cache.get_or_set, "k", source.load, 60)
        assert source.loads == 1

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        in_virtual_time(backend, program)
    assert len(caplog.records) == 1


def test_a_renewal_that_fails_does_not_disturb_the_load(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(20)
        store.failures["renew_lock"] = DOWN
        assert (await Cache(store).get_or_set("k", source.load, 60))["number"] == 1

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        in_virtual_time(backend, program)
    assert "could not be renewed" in caplog.text


def test_an_outage_is_told_once_and_so_is_its_end(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []

    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        async with scope(persistence=store, name="main", on_event=events.append) as s:
            store.failures["*"] = DOWN
            for _ in range(40):
                await s.cache.get_or_set("k", source.load, 60)
                await anyio.sleep(0.1)
            assert source.loads == 40
            assert store.requests.total() <= 4 / OUTAGE_SECONDS + 1
            with pytest.raises(StoreConnectionError):
                await s.cache.set("k", 1)
            store.failures.clear()
            await anyio.sleep(OUTAGE_SECONDS)
            for _ in range(3):
                assert (await s.cache.get_or_set("k", source.load, 60))["number"] == 41

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        in_virtual_time(backend, program)
    assert len(caplog.records) == 1
    told = [event for event in events if isinstance(event, CacheStoreFailed | CacheStoreRecovered)]
    assert told == [CacheStoreFailed("main", DOWN), CacheStoreRecovered("main")]


def test_a_silent_store_delays_one_call_by_a_bounded_time_and_the_next_not(
    backend: Backend,
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.hanging = True
        cache = Cache(store)
        begin = anyio.current_time()
        await cache.get_or_set("k", source.load, 60)
        assert anyio.current_time() - begin == pytest.approx(STORE_SECONDS)
        for number in range(100):
            await cache.get_or_set(f"k{number}", source.load, 60)
        assert anyio.current_time() - begin == pytest.approx(STORE_SECONDS)
        assert source.loads == 101

    in_virtual_time(backend, program)


def test_a_misconfigured_store_fails_no_caller(backend: Backend) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.failures["*"] = ConfigurationError("there is no table")
        assert (await Cache(store).get_or_set("k", source.load, 60))["number"] == 1

    in_virtual_time(backend, program)


def test_a_corrupt_value_is_replaced(backend: Backend) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.failures["get_entry"] = CorruptRecordError("not JSON")
        cache = Cache(store)
        assert (await cache.get_or_set("k", source.load, 60))["number"] == 1
        store.failures.clear()
        assert (await cache.get_or_set("k", source.load, 60))["number"] == 1

    in_virtual_time(backend, program)


def test_a_result_too_large_to_store_is_given(backend: Backend) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.failures["set"] = RecordTooLargeError("too large")
        assert (await Cache(store).get_or_set("k", source.load, 60))["number"] == 1

    in_virtual_time(backend, program)


def test_a_result_that_cannot_be_stored_is_an_error(backend: Backend) -> None:
    async def program() -> None:
        store = MemoryStore()

        async def load() -> set[int]:
            return {1}

        with pytest.raises(TypeError, match="value is of type set"):
            await Cache(store).get_or_set("k", load, 60)
        assert await no_lock_is_held(store)

    in_virtual_time(backend, program)


def test_an_old_value_is_given_at_once_while_it_is_refreshed_once(backend: Backend) -> None:
    events: list[Event] = []

    async def program() -> None:
        store, source = MemoryStore(), Source(1)
        async with scope(persistence=store, name="main", on_event=events.append) as s:
            get = partial(s.cache.get_or_set, "k", source.load, 10, stale_while_revalidate=20)
            assert (await get())["number"] == 1
            await anyio.sleep(15)
            begin = anyio.current_time()
            for _ in range(50):
                assert (await get())["number"] == 1
            assert anyio.current_time() == begin
            await anyio.sleep(1.5)
            assert (await get())["number"] == 2
            assert source.loads == 2
            await anyio.sleep(40)
            assert (await get())["number"] == 3

    in_virtual_time(backend, program)
    assert [event for event in events if isinstance(event, CacheStaleGiven)] == [
        CacheStaleGiven("main", "k", None)
    ] * 50
    assert len([event for event in events if isinstance(event, CacheLoaded)]) == 3


def test_the_end_of_a_scope_gives_a_refresh_a_moment(backend: Backend) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(0.5)
        for number in (1, 1, 2):
            async with scope(persistence=store) as s:
                get = partial(s.cache.get_or_set, "k", source.load, 10, stale_while_revalidate=20)
                assert (await get())["number"] == number
            await anyio.sleep(11 if number == 1 and source.loads == 1 else 0)
        source.seconds = 1_000
        await anyio.sleep(11)
        begin = anyio.current_time()
        async with scope(persistence=store) as s:
            await s.cache.get_or_set("k", source.load, 10, stale_while_revalidate=20)
        assert anyio.current_time() - begin < 2
        assert source.running == 0
        assert await no_lock_is_held(store)

    in_virtual_time(backend, program)


def test_without_a_scope_one_caller_refreshes_and_the_others_do_not_wait(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source(1)
        found: list[int] = []

        async def get() -> None:
            value = await cache.get_or_set("k", source.load, 10, stale_while_revalidate=20)
            found.append(value["number"])

        await get()
        await anyio.sleep(15)
        async with anyio.create_task_group() as group:
            group.start_soon(get)
            await anyio.sleep(0.1)
            for _ in range(5):
                group.start_soon(get)
            await anyio.sleep(0.1)
            assert found == [1] * 6
        assert found == [1] * 6 + [2]

    in_virtual_time(backend, program)


def test_a_value_that_another_process_refreshes_is_given_old(backend: Backend) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(1)
        for cache in (Cache(store), Cache(Persistence(cache=store, locks=store.with_prefix("")))):
            await cache.get_or_set("k", source.load, 10, stale_while_revalidate=20)
            await anyio.sleep(15)
            handle = await store.acquire("get_or_set:k", 5)
            assert handle is not None
            begin = anyio.current_time()
            await cache.get_or_set("k", source.load, 10, stale_while_revalidate=20)
            assert anyio.current_time() == begin
            await handle.release()
            await store.clear()
        assert source.loads == 2

    in_virtual_time(backend, program)


@pytest.mark.parametrize("in_scope", [True, False])
def test_a_refresh_that_fails_leaves_the_old_value_until_its_end(
    backend: Backend, in_scope: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(0)
        async with scope(persistence=store) as s:
            cache = s.cache if in_scope else Cache(store)
            get = partial(cache.get_or_set, "k", source.load, 10, stale_while_revalidate=20)
            await get()
            source.error = OSError("the source is down")
            for _ in range(3):
                await anyio.sleep(9)
                assert (await get())["number"] == 1
            await anyio.sleep(9)
            with pytest.raises(OSError, match="the source is down"):
                await get()

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        in_virtual_time(backend, program)
    assert "could not be refreshed" in caplog.text


def test_an_old_value_stands_in_for_an_error_until_its_end(backend: Backend) -> None:
    events: list[Event] = []
    error = OSError("the source is down")

    async def program() -> None:
        store, source = MemoryStore(), Source(0.1)
        async with scope(persistence=store, name="main", on_event=events.append) as s:
            get = partial(s.cache.get_or_set, "k", source.load, 10, stale_if_error=20)
            await get()
            await anyio.sleep(15)
            source.error = error
            found: list[Any] = []

            async def call() -> None:
                found.append(await get())

            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(call)
            assert [value["number"] for value in found] == [1] * 10
            assert source.loads == 2
            await anyio.sleep(15)
            with pytest.raises(OSError, match="the source is down"):
                await get()
            source.error = None
            assert (await get())["number"] == 4

    in_virtual_time(backend, program)
    assert [event for event in events if isinstance(event, CacheStaleGiven)] == [
        CacheStaleGiven("main", "k", error)
    ] * 10


def test_each_of_the_two_stale_times_counts_by_itself(backend: Backend) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source(1)
        get = partial(
            cache.get_or_set, "k", source.load, 10, stale_while_revalidate=5, stale_if_error=50
        )
        await get()
        await anyio.sleep(20)
        assert (await get())["number"] == 2
        await anyio.sleep(20)
        source.error = OSError("the source is down")
        begin = anyio.current_time()
        assert (await get())["number"] == 2
        assert anyio.current_time() - begin == pytest.approx(1, abs=0.1)

    in_virtual_time(backend, program)


def test_the_cache_of_a_scope_is_kept_and_that_of_a_bundle_is_used(backend: Backend) -> None:
    async def program() -> None:
        store = MemoryStore()
        given = Cache(store)
        async with scope(persistence=Persistence(cache=given)) as s:
            assert s.cache is s.cache
            assert s.cache._layers.store is store
            assert s.cache._context.locks is store
            await s.cache.set("k", 1)
        assert given._context.observer is None
        assert await given.get("k") == 1

    in_virtual_time(backend, program)


@pytest.mark.anyio
async def test_a_cache_is_itself_a_cache_provider_and_passes_everything_on() -> None:
    store = MemoryStore()
    cache = Cache(store)
    assert isinstance(cache, CacheProvider)
    assert await cache.set("a", 1) is True
    assert await cache.set("a", 2, if_absent=True) is False
    await cache.set_many({"b": 2, "c": 3}, ttl=60)
    assert await cache.get_many(["a", "b", "x"]) == {"a": 1, "b": 2}
    assert await cache.touch("b") is True
    entry = await cache.get_entry("b")
    assert entry is not None
    assert (entry.value, entry.left) == (2, math.inf)
    assert await cache.delete("a") is True
    await cache.delete_many(["b"])
    assert await cache.has("c") is True
    assert await cache.keys() == [key async for key in cache.iterate_keys()] == ["c"]
    await cache.clear()
    assert await store.keys() == []
    assert "MemoryStore" in repr(cache)


@pytest.mark.anyio
async def test_bad_arguments_are_named() -> None:
    cache, load = Cache(MemoryStore()), Source(0).load
    get: Any = cache.get_or_set
    coroutine = load()
    with pytest.raises(TypeError, match=r"write get_or_set\(key, fn, ttl, \*args\)"):
        await get("k", coroutine, 60)
    coroutine.close()
    with pytest.raises(ValueError, match="key must not be empty"):
        await get("", load, 60)
    for name, bad in {
        "stale_while_revalidate": -1,
        "stale_if_error": math.inf,
        "negative_ttl": -1,
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            await get("k", load, 60, **{name: bad})
    with pytest.raises(ValueError, match="ttl must be more than 0"):
        await get("k", load, 0)
    with pytest.raises(ValueError, match="ttl must be at most"):
        await get("k", load, 60, lease=13 * 3600)
    with pytest.raises(CapabilityNotSupportedError, match="does not support cache"):
        Cache(Persistence(locks=MemoryStore()))
    not_a_store: Any = {}
    with pytest.raises(TypeError, match="persistence must be a URL, a store"):
        Cache(not_a_store)
    assert await cache.keys() == []


@pytest.mark.anyio
@pytest.mark.parametrize("in_scope", [True, False])
async def test_a_function_that_is_not_async_is_an_error_and_no_value_stands_in_for_it(
    in_scope: bool,
) -> None:
    def not_async(*args: Any) -> int:
        return 7

    fn: Any = not_async
    store = MemoryStore()
    words = r"fn must be an async function, but .*not_async returned 7; run one that is not with"
    async with scope(persistence=store) as s:
        cache = s.cache if in_scope else Cache(store)
        with pytest.raises(TypeError, match=words):
            await cache.get_or_set("k", fn, 60)
        with pytest.raises(TypeError, match=words):
            await cached(cache, 60, key=str)(fn)("k")
        await store.set("k", "old", 1e-3, stale=60)
        while await store.has("k"):
            await anyio.sleep(1e-3)
        with pytest.raises(TypeError, match=words):
            await cache.get_or_set("k", fn, 60, stale_if_error=60)


@pytest.mark.anyio
@pytest.mark.parametrize("local", [True, False])
async def test_what_is_no_key_and_no_mapping_is_named_with_a_layer_in_front_or_not(
    local: bool,
) -> None:
    cache: Any = Cache(MemoryStore(), local=LocalCache() if local else None)
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    for call in (cache.get, cache.delete, cache.touch, partial(cache.set, value=1)):
        with pytest.raises(TypeError, match=r"key must be a str, got \['a'\] of type list"):
            await call(["a"])
    for not_a_mapping in (None, 5, [("a", 1)]):
        with pytest.raises(TypeError, match="values must be a mapping of keys to values, got"):
            await cache.set_many(not_a_mapping)
    for call in (cache.delete_many, cache.get_many):
        for no_keys in (None, 5):
            with pytest.raises(TypeError, match="keys must be an iterable of str, got"):
                await call(no_keys)
        with pytest.raises(TypeError, match=r"write \['k'\]"):
            await call("k")
    assert await cache.get("k") == 1


def test_any_object_with_the_methods_of_a_cache_will_do(backend: Backend) -> None:
    class Delegating:
        """A store that cannot be hashed, is equal to others, and takes no weak references."""

        __slots__ = ("inner",)
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, inner: MemoryStore) -> None:
            self.inner = inner

        def __eq__(self, other: object) -> bool:
            return True

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class Referable(Delegating):
        __slots__ = ("__weakref__",)

    async def program() -> None:
        for kind in (Delegating, Referable):
            for number in range(3):
                store: Any = kind(MemoryStore())
                cache, source = Cache(Persistence(cache=store, locks=store)), Source()
                async with anyio.create_task_group() as group:
                    for _ in range(5):
                        group.start_soon(cache.get_or_set, "k", source.load, 60, number)
                assert source.loads == 1
                assert await cache.get("k") == {"number": 1, "args": [number]}
                assert state_of(store) is state_of(store)

    in_virtual_time(backend, program)


@pytest.mark.anyio
async def test_what_is_known_of_a_store_goes_with_it() -> None:
    async def use() -> weakref.ref[object]:
        store = MemoryStore()
        await Cache(store).get_or_set("k", Source(0).load, 60)
        return weakref.ref(state_of(store))

    state = await use()
    await anyio.lowlevel.checkpoint()  # asyncio keeps a cancellation for the step it was thrown in
    gc.collect()
    assert state() is None
