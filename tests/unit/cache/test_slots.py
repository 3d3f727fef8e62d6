"""A caller that waits for a value lends its slot: the function that loads it may need one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from gogoscope import Cache, Scope, scope
from gogoscope.stores.memory import MemoryStore
from tests.unit.cache.sources import Run


def loader(s: Scope) -> Callable[[], Awaitable[list[int]]]:
    """Return a function that needs two more slots of a scope."""

    async def part(number: int) -> int:
        await anyio.sleep(1)
        return number

    async def load() -> list[int]:
        await anyio.sleep(1)
        return [result.unwrap() for result in await s.map(part, [1, 2])]

    return load


@pytest.mark.parametrize("of_the_scope", [True, False])
def test_callers_that_wait_for_a_load_lend_it_their_slots(run: Run, of_the_scope: bool) -> None:
    async def program() -> None:
        store = MemoryStore()
        async with scope(persistence=store, concurrency=2) as s:
            cache = s.cache if of_the_scope else Cache(store)
            tasks = [s.task(cache.get_or_set, "k", loader(s), 60) for _ in range(3)]
            with anyio.fail_after(10):
                assert [(await task).unwrap() for task in tasks] == [[1, 2]] * 3

    run(program)


def test_callers_that_wait_for_another_process_lend_their_slots(run: Run) -> None:
    async def program() -> None:
        store = MemoryStore()
        held = await store.acquire("get_or_set:k", 60)
        assert held is not None
        async with scope(persistence=store, concurrency=1) as s:
            waiting = s.task(s.cache.get_or_set, "k", loader(s), 60)
            await anyio.sleep(1)
            with anyio.fail_after(10):
                (await s.task(store.set, "other", 1)).unwrap()
                await store.set("k", [7])
                assert (await waiting).unwrap() == [7]

    run(program)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_function_runs_in_its_slot_after_a_wait(run: Run, elsewhere: bool) -> None:
    running = most = 0

    async def load() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await anyio.sleep(1)
        finally:
            running -= 1
        raise LookupError

    async def program() -> None:
        store = MemoryStore()
        keys = ["a", "b", "c"]
        held = [await store.acquire(f"get_or_set:{key}", 5) for key in keys if elsewhere]
        async with scope(persistence=store, concurrency=1) as s:
            firsts = [] if elsewhere else [s.task(s.cache.get_or_set, k, load, 60) for k in keys]
            tasks = [s.task(s.cache.get_or_set, key, load, 60) for key in keys]
            await anyio.sleep(1.5)
            for first in firsts:
                first.cancel()
            for handle in held:
                assert handle is not None
                await handle.release()
            for task in [*firsts, *tasks]:
                assert (await task).error is not None
        assert most == 1

    run(program)


def test_a_caller_cancelled_while_it_takes_back_its_slot_releases_the_lock(run: Run) -> None:
    async def program() -> None:
        store = MemoryStore()
        held = await store.acquire("get_or_set:k", 60)
        assert held is not None
        async with scope(persistence=store, concurrency=1) as s:
            waiting = s.task(s.cache.get_or_set, "k", loader(s), 60)
            await anyio.sleep(1)
            busy = s.task(anyio.sleep, 5)
            await anyio.sleep(1)
            await held.release()
            await anyio.sleep(1)
            assert await store.holder("get_or_set:k") is not None
            waiting.cancel()
            await waiting
            assert await store.holder("get_or_set:k") is None
            await busy

    run(program)
