"""Old values: never older than their bound, each caller's own, and no refresh harms a scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from gogoscope import Cache, LocalCache, LockHandle, scope
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock

Run = Callable[[Callable[[], Awaitable[None]]], None]

DOWN = OSError("the source is down")


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a program in virtual time."""
    return lambda program: VirtualClock(start=1_800_000_000.0).run(program, backend=request.param)


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
def test_who_has_no_old_value_gets_the_error_of_the_refresh_it_waits_for(
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


def test_a_value_that_grew_too_old_while_the_function_ran_stands_in_for_nothing(run: Run) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())
        get: Any = partial(cache.get_or_set, "k", fail, 1, stale_if_error=4)
        for seconds, expected in ((1, "old"), (3.5, DOWN)):
            await cache.get_or_set("k", load, 1, stale_if_error=4)
            await anyio.sleep(2)
            assert await outcome(partial(get, seconds)) == expected
            await cache.delete("k")

    run(program)


def test_each_of_those_who_share_a_failed_load_has_its_own_old_value_or_none(run: Run) -> None:
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


def test_who_waits_for_a_refresh_that_another_process_does_waits_for_its_value(run: Run) -> None:
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


def test_a_value_kept_for_later_is_none_of_the_caches_beyond_its_time(run: Run) -> None:
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
