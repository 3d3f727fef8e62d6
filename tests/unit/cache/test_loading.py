"""``get_or_set``: one load for many callers, whichever is cancelled, fails or is slow."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope import Cache, LockHandle, Persistence, TaskCancelled, scope
from gogoscope.cache.outages import state_of
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere
from tests.unit.cache.sources import FaultyStore, Run, Source, beside, no_lock_is_held


def test_a_value_is_loaded_once_and_then_found(run: Run) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source()
        expected = {"number": 1, "args": [7, "x"]}
        assert await cache.get_or_set("k", source.load, 60, 7, "x") == expected
        assert await cache.get_or_set("k", source.load, 60, 8, "y") == expected
        assert await cache.get("k") == expected
        assert source.loads == 1

    run(program)


def test_a_value_is_fresh_for_its_time_and_no_longer(run: Run) -> None:
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

    run(program)


def test_many_callers_of_a_cold_key_share_one_load_and_get_copies(run: Run) -> None:
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

    assert run(program) < 1


def test_callers_of_different_keys_do_not_wait_for_each_other(run: Run) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source(1)
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(cache.get_or_set, f"k{number}", source.load, 60)
        assert source.loads == source.most_running == 20

    assert run(program) < 1.5


def test_an_error_is_raised_for_all_waiting_callers_and_is_not_kept(run: Run) -> None:
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

    run(program)


def test_a_caller_after_an_error_starts_a_load_of_its_own(run: Run) -> None:
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

    run(program)


def test_a_value_stored_between_the_read_and_the_lock_is_found(run: Run) -> None:
    class Racing(MemoryStore):
        async def acquire(self, key: str, ttl: Any, owner: str | None = None) -> LockHandle | None:
            await self.set("k", "theirs")
            return await super().acquire(key, ttl, owner)

    async def program() -> None:
        source = Source()
        found: object = await Cache(Racing()).get_or_set("k", source.load, 60)
        assert (found, source.loads) == ("theirs", 0)

    run(program)


def _frames(error: BaseException) -> Any:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


@pytest.mark.parametrize(("negative_ttl", "loads"), [(None, 1), (5, 2), (0, 3)])
def test_none_is_kept_as_long_as_negative_ttl_says(
    run: Run, negative_ttl: float | None, loads: int
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

    run(program)


def test_a_none_that_is_not_stored_removes_the_old_value(run: Run) -> None:
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

    run(program)


def test_a_none_that_is_not_stored_leaves_a_value_that_was_set_meanwhile(run: Run) -> None:
    async def program() -> None:
        cache = Cache(MemoryStore())

        async def find() -> str | None:
            await cache.set("k", "new", 60)
            return None

        await cache.set("k", "old", 1, stale=60)
        await anyio.sleep(2)
        got = await cache.get_or_set("k", find, 60, stale_if_error=60, negative_ttl=0)
        assert got is None
        assert await cache.get("k") == "new"

    run(program)


@pytest.mark.anyio
@pytest.mark.parametrize("others", ["here", "beside"])
async def test_a_caller_cancelled_at_any_await_deprives_no_other_of_the_value(others: str) -> None:
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


def test_when_every_caller_is_cancelled_nothing_is_left_behind(run: Run) -> None:
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

    run(program)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_lock_is_left_by_asyncios_own_cancellation_at_any_time() -> None:
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


def test_a_load_longer_than_the_lease_is_still_the_only_one(run: Run) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(30)
        async with anyio.create_task_group() as group:
            for cache in (Cache(store), beside(store)):
                group.start_soon(partial(cache.get_or_set, "k", source.load, 60, lease=3))
        assert source.loads == 1

    run(program)


def test_a_load_of_a_dead_process_is_waited_for_no_longer_than_its_lease(run: Run) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(0)
        assert await store.acquire("get_or_set:k", 10) is not None  # and it is never renewed
        async with anyio.create_task_group() as group:
            for cache in (Cache(store), Cache(store), beside(store)):
                group.start_soon(cache.get_or_set, "k", source.load, 60)
            await anyio.sleep(9.9)
            assert source.loads == 0
        assert source.loads == 1

    assert 9.9 < run(program) < 11


def test_a_value_that_somebody_else_loads_is_found_while_waiting(run: Run) -> None:
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

    assert run(program) < 6


@pytest.mark.parametrize("length", [3, 256, 257, 2_000])
def test_keys_of_any_length_are_locked(run: Run, length: int) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source()
        async with anyio.create_task_group() as group:
            for cache in (Cache(store), beside(store)):
                group.start_soon(cache.get_or_set, "k" * length, source.load, 60)
        assert source.loads == 1

    run(program)


def test_without_locks_one_process_still_loads_once(run: Run) -> None:
    async def program() -> None:
        source = Source()
        cache = Cache(Persistence(cache=MemoryStore()))
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(cache.get_or_set, "k", source.load, 60)
        assert source.loads == 1

    run(program)


def test_a_load_that_waits_for_itself_is_an_error_and_no_deadlock(run: Run) -> None:
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

    run(program)


@pytest.mark.parametrize("ring", ["ab", "abc"])
def test_loads_that_wait_for_each_other_are_an_error_and_no_deadlock(run: Run, ring: str) -> None:
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

    run(program)


def test_loads_that_wait_for_the_same_load_are_no_circle(run: Run) -> None:
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

    run(program)


def test_a_load_may_ask_for_other_keys(run: Run) -> None:
    async def program() -> None:
        cache, source = Cache(MemoryStore()), Source()

        async def outer() -> list[Any]:
            return [await cache.get_or_set(f"part {n}", source.load, 60, n) for n in range(3)]

        assert len(await cache.get_or_set("whole", outer, 60)) == 3

    run(program)


def test_a_result_that_cannot_be_stored_is_an_error(run: Run) -> None:
    async def program() -> None:
        store = MemoryStore()

        async def load() -> set[int]:
            return {1}

        with pytest.raises(TypeError, match="value is of type set"):
            await Cache(store).get_or_set("k", load, 60)
        assert await no_lock_is_held(store)

    run(program)


@pytest.mark.parametrize("stale", [0, 60])
def test_a_load_whose_scope_was_cancelled_fails_no_caller_of_another_scope(
    run: Run, stale: float
) -> None:
    async def program() -> None:
        store, source = MemoryStore(), Source(0)
        cache = Cache(store)
        get: Any = partial(cache.get_or_set, "k", stale_if_error=stale)
        if stale:
            await get(source.load, 1)
            await anyio.sleep(2)
        async with scope() as others:
            async with scope() as s:

                async def load() -> None:
                    await anyio.sleep(2)
                    s.cancel("stop")
                    (await s.task(anyio.sleep, 0)).unwrap()

                s.task(get, load, 60)
                await anyio.sleep(1)
                waiting = others.task(get, source.load, 60)
                await anyio.sleep(5)
            assert (await waiting).unwrap()["number"] == 1 + bool(stale)
        assert await no_lock_is_held(store)

    run(program)


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_nobody_asked_for_is_an_error_of_the_load(
    locked: bool,
) -> None:
    store = MemoryStore()
    cache = Cache(store) if locked else Cache(Persistence(cache=store))

    loads: list[None] = []

    async def load() -> None:
        loads.append(None)
        await anyio.sleep(0.01)
        raise anyio.get_cancelled_exc_class()

    async def load_well() -> int:
        return 7

    async with scope() as s:
        first = s.task(cache.get_or_set, "k", load, 60)
        await anyio.sleep(0)
        second = s.task(cache.get_or_set, "k", load, 60)
        for result in (await first, await second):
            assert isinstance(result.error, TaskCancelled)
    assert len(loads) == 1
    assert await cache.get_or_set("k", load_well, 60) == 7


def test_an_error_that_many_callers_share_has_a_few_notes(run: Run) -> None:
    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s:

            async def load() -> None:
                await anyio.sleep(1)
                raise OSError("broken")

            get = partial(s.cache.get_or_set, "k", load, 60)
            results = await s.all(*[s.task(get, name=f"user {number}") for number in range(50)])
            errors = [result.error for result in results]
        assert all(error is errors[0] for error in errors)
        assert len(getattr(errors[0], "__notes__", [])) in (1, 2)

    run(program)


@pytest.mark.parametrize("begun", [False, True])
def test_a_load_goes_on_whose_renewals_asyncio_itself_cancels(begun: bool) -> None:
    async def program() -> None:
        store = MemoryStore()

        async def load() -> str:
            if begun:
                await anyio.sleep(0.01)
            for task in asyncio.all_tasks():
                if task.get_name().startswith("gogoscope load of"):
                    task.cancel()
            await anyio.sleep(0.01)
            return "value"

        assert await Cache(store).get_or_set("k", load, 60) == "value"
        assert await Cache(store).get("k") == "value"

    asyncio.run(program())
