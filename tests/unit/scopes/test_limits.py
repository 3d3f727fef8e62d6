"""Limits and nesting: with a single slot, whoever waits lends it, and nothing deadlocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from gogoscope import Retry, Scope, Task, TaskCancelled, scope
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio


async def number(value: int) -> int:
    await anyio.lowlevel.checkpoint()
    return value


async def fail() -> None:
    raise ValueError("planned")


async def await_directly(s: Scope) -> None:
    assert (await s.task(number, 1)).value == 1


async def wait_for(s: Scope) -> None:
    await s.task(number, 1).wait()


async def await_in_a_task_group(s: Scope) -> None:
    async def look(task: Task[int]) -> None:
        assert (await task).value == 0

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(look, s.task(number, 0))


async def await_in_a_child(s: Scope) -> None:
    async with s.child() as inner:
        task = inner.task(await_directly, inner)
        assert (await s.task(number, 0)).value == 0
        assert (await task).error is None


async def leave_a_child_to_wait(s: Scope) -> None:
    async with s.child() as inner:
        inner.task(number, 0)
        inner.task(await_directly, s)


async def await_in_a_child_with_its_own_limit(s: Scope) -> None:
    async with s.child(concurrency=1) as inner:
        inner.task(await_directly, s)


async def await_in_a_scope_of_its_own(s: Scope) -> None:
    async with scope(concurrency=1) as inner:
        inner.task(await_directly, s)


async def map_items(s: Scope) -> None:
    assert [result.value for result in await s.map(number, range(5))] == [0, 1, 2, 3, 4]
    assert [result.value async for result in s.map(number, range(5), limit=2)] == [0, 1, 2, 3, 4]


async def map_a_source_that_awaits(s: Scope) -> None:
    async def source() -> AsyncIterator[int]:
        for value in range(3):
            yield (await s.task(number, value)).unwrap()

    assert [result.value async for result in s.map(number, source())] == [0, 1, 2]


async def race_functions(s: Scope) -> None:
    assert (await s.race([lambda: number(0), anyio.sleep_forever])).value == 0
    assert (await s.any([fail, lambda: number(0), anyio.sleep_forever])).value == 0


async def await_all(s: Scope) -> None:
    results = await s.all(s.task(number, 0), s.task(await_directly, s))
    assert not any(result.error for result in results)


async def share_a_call(s: Scope) -> None:
    first, second = s.task(number, 0, dedupe="key"), s.task(number, 0, dedupe="key")
    assert (await first).value == (await second).value == 0


async def tick(s: Scope) -> None:
    ticking = s.every(3600, lambda: number(0))
    await anyio.wait_all_tasks_blocked()
    ticking.cancel()


async def hold_a_lock(s: Scope) -> None:
    async with s.lock("limited") as locked:
        locked.task(number, 0)
        assert (await s.task(number, 0)).value == 0


NESTED = [
    await_directly,
    wait_for,
    await_in_a_task_group,
    await_in_a_child,
    leave_a_child_to_wait,
    await_in_a_child_with_its_own_limit,
    await_in_a_scope_of_its_own,
    map_items,
    map_a_source_that_awaits,
    race_functions,
    await_all,
    share_a_call,
    tick,
    hold_a_lock,
]


@pytest.mark.parametrize("nested", NESTED)
async def test_rule_10_a_limit_of_one_never_deadlocks(
    nested: Callable[[Scope], Awaitable[None]],
) -> None:
    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            for task in [s.task(nested, s), s.task(number, 0), s.task(nested, s)]:
                assert (await task).error is None
        assert s._slots is not None
        assert s._slots._free == 1


async def test_rule_10_what_ticks_leaves_the_slot_to_others_between_its_ticks() -> None:
    with anyio.fail_after(5):
        async with scope(concurrency=1, on_exit="cancel") as s:
            s.every(3600, lambda: number(0))
            await anyio.wait_all_tasks_blocked()
            assert (await s.task(number, 1)).value == 1


async def test_rule_10_a_race_that_is_cancelled_does_not_wait_for_the_slot_it_lent() -> None:
    async with scope(concurrency=1) as s:
        racing = s.task(lambda: s.race([anyio.sleep_forever]))
        await anyio.wait_all_tasks_blocked()
        released = anyio.Event()
        s.task(released.wait)
        racing.cancel()
        with anyio.move_on_after(5) as patience:
            err, _ = await racing
            assert isinstance(err, TaskCancelled)
        released.set()
    assert not patience.cancelled_caught


async def test_rule_10_a_child_that_is_cancelled_while_it_waits_for_its_slot_ends_in_order() -> (
    None
):
    async with scope(concurrency=1) as s:

        async def nest() -> None:
            async with s.child() as inner:
                inner.task(number, 0)

        nesting = s.task(nest)
        released = anyio.Event()
        s.task(released.wait)
        await anyio.wait_all_tasks_blocked()
        nesting.cancel()
        with anyio.move_on_after(5) as patience:
            err, _ = await nesting
            assert isinstance(err, TaskCancelled)
        released.set()
    assert not patience.cancelled_caught


async def follow_twice(inner: Scope, work: Callable[[], Awaitable[None]]) -> None:
    inner.task(work, dedupe="key")
    inner.task(work, dedupe="key")


async def tick_in(inner: Scope, work: Callable[[], Awaitable[None]]) -> None:
    inner.every(10, work)


@pytest.mark.parametrize("start", [follow_twice, tick_in])
async def test_rule_10_a_task_without_a_slot_lends_no_slot_of_others(
    start: Callable[[Scope, Callable[[], Awaitable[None]]], Awaitable[None]],
) -> None:
    running: list[str] = []

    async def work() -> None:
        assert running == []

    async def host() -> None:
        async with s.child(on_exit="cancel") as inner:
            running.append("host")
            await start(inner, work)
            await anyio.wait_all_tasks_blocked()
            running.clear()
            await s.task(number, 1)

    async with scope(concurrency=1) as s:
        s.task(host)


# Limits of several scopes: whatever a task waits for, it lends every slot held around the wait.


async def await_a_task(s: Scope) -> None:
    assert (await s.task(number, 1)).value == 1


async def wait_for_a_task(s: Scope) -> None:
    await s.task(number, 1).wait()


async def leave_the_block_of_a_child(s: Scope) -> None:
    async with s.child() as inner:
        inner.task(number, 1)


async def await_a_map(s: Scope) -> None:
    assert [result.value for result in await s.map(number, range(3))] == [0, 1, 2]


async def iterate_over_a_map(s: Scope) -> None:
    assert [result.value async for result in s.map(number, range(3), limit=1)] == [0, 1, 2]


async def iterate_as_completed(s: Scope) -> None:
    assert [item async for item, _ in s.as_completed(number, range(3), limit=1)] == [0, 1, 2]


async def race_one(s: Scope) -> None:
    assert (await s.race([lambda: number(1)])).value == 1


async def hold_a_lock_and_await_a_task(s: Scope) -> None:
    async with s.lock("limited"):
        await await_a_task(s)


async def load_and_await_a_task(s: Scope) -> None:
    async def load() -> int:
        return (await s.task(number, 1)).unwrap()

    assert await s.cache.get_or_set("key", load, 60) == 1


WAITS = [
    await_a_task,
    wait_for_a_task,
    leave_the_block_of_a_child,
    await_a_map,
    iterate_over_a_map,
    iterate_as_completed,
    race_one,
    hold_a_lock_and_await_a_task,
    load_and_await_a_task,
]


@pytest.mark.parametrize("wait", WAITS)
async def test_rule_10_two_scopes_whose_tasks_wait_for_each_other_go_on(
    wait: Callable[[Scope], Awaitable[None]],
) -> None:
    both_run = 0
    go = anyio.Event()

    async def ask(s: Scope) -> None:
        nonlocal both_run
        both_run += 1
        if both_run == 2:
            go.set()
        await go.wait()
        await wait(s)

    store = MemoryStore()
    one = scope(concurrency=1, persistence=store)
    two = scope(concurrency=1, persistence=store)
    with anyio.fail_after(5):
        async with one, two:
            for task in [one.task(ask, two), two.task(ask, one)]:
                assert (await task).error is None
            assert one._slots is not None
            assert two._slots is not None
            assert one._slots._free == two._slots._free == 1


@pytest.mark.parametrize("wait", WAITS)
async def test_rule_10_a_child_with_a_limit_of_its_own_lends_the_slots_around_it(
    wait: Callable[[Scope], Awaitable[None]],
) -> None:
    """Its task waits for what only a task of the outer scope brings about."""
    brought = anyio.Event()

    async def bring() -> None:
        brought.set()

    async def host() -> None:
        async with s.child(concurrency=1) as inner:

            async def meet() -> None:
                await wait(inner)
                s.task(bring)
                await brought.wait()

            inner.task(meet)

    with anyio.fail_after(5):
        async with scope(concurrency=1, persistence=MemoryStore()) as s:
            assert (await s.task(host)).error is None


async def test_rule_10_who_waits_for_a_lock_of_another_scope_lends_the_slot() -> None:
    async with scope(persistence=MemoryStore()) as locks, scope(concurrency=1) as limited:
        held = anyio.Event()

        async def hold() -> None:
            async with locks.lock("key"):
                held.set()
                await anyio.wait_all_tasks_blocked()
                assert (await limited.task(number, 1)).value == 1

        async def take() -> None:
            async with locks.lock("key"):
                pass

        with anyio.fail_after(5):
            first = limited.task(hold)
            await held.wait()
            second = limited.task(take)
            assert (await first).error is None
            assert (await second).error is None


async def test_rule_10_slots_of_two_limits_are_taken_back_without_waiting_for_each_other() -> None:
    """Two tasks stand in both limits, in opposite order; a slot of each becomes free."""
    go, free, all_done = anyio.Event(), anyio.Event(), anyio.Event()
    done: list[str] = []

    async def stand_in_both(name: str) -> None:
        await gate
        done.append(name)
        if len(done) == 2:
            all_done.set()

    async def host(inner: Scope, name: str) -> None:
        async with inner as opened:
            opened.task(stand_in_both, name)
            await all_done.wait()

    with anyio.fail_after(5):
        async with scope() as s, scope(concurrency=2) as one, scope(concurrency=2) as two:
            gate = s.task(go.wait)
            one.task(host, two.child(), "two in one")
            two.task(host, one.child(), "one in two")
            await anyio.wait_all_tasks_blocked()
            for limited in (one, two):
                limited.task(free.wait)
                limited.task(all_done.wait)
            await anyio.wait_all_tasks_blocked()
            go.set()
            await anyio.wait_all_tasks_blocked()
            assert done == []
            free.set()
    assert sorted(done) == ["one in two", "two in one"]


async def test_rule_10_a_host_that_runs_keeps_its_slot_while_tasks_of_its_child_wait() -> None:
    running = highest = 0

    async def work() -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await anyio.wait_all_tasks_blocked()
        running -= 1

    async def wait_for_work() -> None:
        await s.task(work)

    async def host() -> None:
        async with s.child() as inner:
            inner.task(wait_for_work)
            for _ in range(4):
                await work()

    async with scope(concurrency=2) as s:
        s.task(host)
        for _ in range(4):
            s.task(work)
    assert highest == 2


async def test_rule_18_a_wait_for_time_alone_lends_no_slot() -> None:
    order: list[str] = []

    async def fail_once() -> None:
        order.append("try")
        if order == ["try"]:
            raise ValueError("planned")

    async def other() -> None:
        order.append("other")

    async with scope(concurrency=1) as s:
        s.task(fail_once, retry=Retry(2, delay=0.01))
        s.task(other)
    assert order == ["try", "try", "other"]


async def test_an_event_loop_in_a_worker_thread_lends_no_slot_of_the_task_that_it_is_part_of(
    anyio_backend_name: str,
) -> None:
    order: list[str] = []

    async def wait_there() -> None:
        async with scope() as inner:
            await inner.task(anyio.sleep, 0.05).wait()
        order.append("the thread")

    async def next_one() -> None:
        order.append("the next task")

    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            s.thread(partial(anyio.run, wait_there, backend=anyio_backend_name))
            s.task(next_one)
    assert order == ["the thread", "the next task"]
