"""Old values: never older than their bound, and no failed refresh harms a scope."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope import Cache, LocalCache, LockHandle, Persistence, scope
from gogoscope.events import CacheLoaded, CacheStaleGiven, Event
from gogoscope.stores.memory import MemoryStore
from tests.unit.cache.sources import Run, Source, no_lock_is_held

DOWN = OSError("the source is down")


async def load(*_: object) -> str:
    return "old"


async def fail(*seconds: Any) -> str:
    await anyio.sleep(sum(seconds))
    raise DOWN


async def outcome(get: Callable[[], Awaitable[Any]]) -> object:
    try:
        return await get()
    except OSError as error:
        return error


@pytest.mark.parametrize("seconds", [0, 5])
def test_a_refresh_that_meets_a_load_that_fails_leaves_its_scope_alone(
    run: Run, seconds: float
) -> None:
    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s:
            get: Any = partial(s.cache.get_or_set, "k", fail, 1, seconds, stale_while_revalidate=60)
            await s.cache.get_or_set("k", load, 1, stale_while_revalidate=60)
            await anyio.sleep(2)
            assert await get() == "old"
            await s.cache.delete("k")
            assert await outcome(get) is DOWN
            await anyio.sleep(10)

    run(program)


@pytest.mark.parametrize("in_scope", [True, False])
def test_a_caller_without_an_old_value_gets_the_error_of_the_refresh_it_waits_for(
    run: Run, in_scope: bool
) -> None:
    async def program() -> None:
        store = MemoryStore()
        async with scope(persistence=store) as s:
            cache = s.cache if in_scope else Cache(store)
            get: Any = partial(cache.get_or_set, "k", fail, 1, 4, stale_while_revalidate=2)
            await cache.get_or_set("k", load, 1, stale_while_revalidate=2)
            await anyio.sleep(2)
            refreshing = s.task(outcome, get)
            await anyio.sleep(2)
            assert await cache.has("k") is False
            began = anyio.current_time()
            assert await outcome(get) is DOWN
            assert anyio.current_time() - began == pytest.approx(2)
            assert (await refreshing).unwrap() == ("old" if in_scope else DOWN)

    run(program)


def test_a_value_that_grew_too_old_while_the_function_ran_is_not_returned(run: Run) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())
        get: Any = partial(cache.get_or_set, "k", fail, 1, stale_if_error=4)
        for seconds, expected in ((1, "old"), (3.5, DOWN)):
            await cache.get_or_set("k", load, 1, stale_if_error=4)
            await anyio.sleep(2)
            assert await outcome(partial(get, seconds)) == expected
            await cache.delete("k")

    run(program)


def test_callers_that_share_a_failed_load_each_return_their_own_old_value(run: Run) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())
        get: Any = partial(cache.get_or_set, "k", fail, 1, 2, stale_if_error=60)
        await cache.get_or_set("k", load, 1, stale_if_error=60)
        await anyio.sleep(2)
        async with scope() as s:
            first = s.task(outcome, get)
            await anyio.sleep(1)
            await cache.delete("k")
            assert await outcome(get) is DOWN
            assert (await first).unwrap() == "old"

    run(program)


def test_a_caller_that_waits_for_the_refresh_of_another_process_gets_its_value(run: Run) -> None:
    class Slow(MemoryStore):
        async def acquire(self, key: str, ttl: Any, owner: str | None = None) -> LockHandle | None:
            await anyio.sleep(1)
            return await super().acquire(key, ttl, owner)

    async def program() -> None:
        store = Slow()
        async with scope(persistence=store) as s:
            get: Any = partial(s.cache.get_or_set, "k", fail, 1, stale_while_revalidate=60)
            await s.cache.get_or_set("k", load, 1, stale_while_revalidate=60)
            await anyio.sleep(2)
            assert await store.acquire("get_or_set:k", 600) is not None
            assert await get() == "old"
            await s.cache.delete("k")
            waiting = s.task(get)
            await anyio.sleep(5)
            await store.set("k", "theirs")
            assert (await waiting).unwrap() == "theirs"

    run(program)


def test_a_value_kept_beyond_its_time_is_not_seen_by_the_plain_methods(run: Run) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore(), local=LocalCache(ttl=100))
        await cache.get_or_set("k", load, 1, stale_if_error=3600, stale_while_revalidate=60)
        assert await cache.get("k") == "old"
        await anyio.sleep(2)
        assert await cache.get("k", "gone") == "gone"
        assert await cache.has("k") is False
        assert await cache.get_many(["k"]) == {}
        assert await outcome(partial(cache.get_or_set, "k", fail, 1)) is DOWN
        assert await cache.get_or_set("k", fail, 1, stale_if_error=10) == "old"
        assert await outcome(partial(cache.get_or_set, "k", fail, 1, stale_if_error=0.5)) is DOWN

    run(program)


def test_a_value_set_by_hand_is_fresh_for_its_own_time(run: Run) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())
        get: Any = partial(cache.get_or_set, "k", load, 1, stale_if_error=3600)
        await cache.set("k", "by hand", 60)
        await anyio.sleep(59)
        assert await get() == "by hand"
        await anyio.sleep(2)
        assert await get() == "old"

    run(program)


def test_a_refresh_in_the_background_may_wait_for_the_load_that_began_it(run: Run) -> None:
    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s:

            async def inner() -> str:
                return f"new, by {await s.cache.get_or_set('outer', outer, 60)}"

            async def outer() -> str:
                found = await s.cache.get_or_set("inner", inner, 1, stale_while_revalidate=60)
                await anyio.sleep(1)
                return f"outer with {found}"

            await s.cache.set("inner", "old", 1, stale=60)
            await anyio.sleep(2)
            assert await s.cache.get_or_set("outer", outer, 60) == "outer with old"
            await anyio.sleep(0.5)
            assert await s.cache.get("inner") == "new, by outer with old"

    run(program)


def test_an_old_value_is_returned_at_once_while_one_refresh_runs(run: Run) -> None:
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

    run(program)
    assert [event for event in events if isinstance(event, CacheStaleGiven)] == [
        CacheStaleGiven("main", "k", None)
    ] * 50
    assert len([event for event in events if isinstance(event, CacheLoaded)]) == 3


def test_the_end_of_a_scope_waits_a_moment_for_a_refresh(run: Run) -> None:
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

    run(program)


def test_without_a_scope_one_caller_refreshes_and_the_others_do_not_wait(run: Run) -> None:
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

    run(program)


def test_a_cache_whose_scope_has_ended_refreshes_in_its_caller(run: Run) -> None:
    async def program() -> None:
        source = Source(1)
        async with scope(persistence=MemoryStore()) as s:
            cache = s.cache
            await cache.get_or_set("k", source.load, 10, stale_while_revalidate=20)
        await anyio.sleep(15)
        value = await cache.get_or_set("k", source.load, 10, stale_while_revalidate=20)
        assert value["number"] == 2

    run(program)


def test_an_old_value_is_returned_while_another_process_refreshes_it(run: Run) -> None:
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

    run(program)


@pytest.mark.parametrize("in_scope", [True, False])
def test_a_refresh_that_fails_leaves_the_old_value_until_its_end(
    run: Run, in_scope: bool, caplog: pytest.LogCaptureFixture
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
        run(program)
    assert "could not be refreshed" in caplog.text


def test_an_old_value_is_returned_instead_of_an_error_until_its_end(run: Run) -> None:
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

    run(program)
    assert [event for event in events if isinstance(event, CacheStaleGiven)] == [
        CacheStaleGiven("main", "k", error)
    ] * 10


def test_each_of_the_two_stale_times_counts_separately(run: Run) -> None:
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

    run(program)


@pytest.mark.parametrize("child", [True, False])
def test_a_cache_of_a_scope_that_has_ended_refreshes_its_old_values(run: Run, child: bool) -> None:
    """The caller that finds an old value waits for the refresh, as outside of scopes."""

    async def program() -> None:
        source = Source()
        async with scope(persistence=MemoryStore()) as s:
            async with s.child() if child else scope(persistence=s._home.store()) as ended:

                @ended.cached(1, key=lambda: "k", stale_while_revalidate=60)
                async def load() -> dict[str, Any]:
                    return await source.load()

                await load()
            await anyio.sleep(2)
            began = anyio.current_time()
            assert (await load())["number"] == 2
            assert anyio.current_time() - began == pytest.approx(source.seconds)
            assert (await load())["number"] == 2

    run(program)
