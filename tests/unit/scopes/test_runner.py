"""How tasks are run: inside their awaiter, by workers, or each on its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
import pytest
import sniffio
import trio

from gogoscope import Scope, TaskCancelled, scope

pytestmark = pytest.mark.anyio

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def here() -> int:
    await anyio.sleep(0)
    return anyio.get_current_task().id


def running() -> object:
    """Return the running task of the event loop itself, which keeps its place in memory."""
    library = sniffio.current_async_library()
    return asyncio.current_task() if library == "asyncio" else trio.lowlevel.current_task()


async def no_op() -> None:
    return


async def test_a_task_that_only_its_awaiter_knows_runs_inside_of_it(inline: bool) -> None:
    async with scope() as s:
        assert ((await s.task(here)).unwrap() == await here()) is inline


async def test_a_task_that_others_may_know_has_a_task_of_the_event_loop_of_its_own() -> None:
    async with scope() as s:
        task = s.task(here)
        kept = [s.task(here)]
        assert (await task).unwrap() != await here()
        assert (await kept[0]).unwrap() != await here()


async def test_without_inline_each_task_has_a_task_of_the_event_loop_of_its_own() -> None:
    async def registers() -> object:
        return running()

    async with scope(inline=False) as s:
        tasks = [s.task(registers) for _ in range(5)]
        found = [(await task).unwrap() for task in tasks]
        found.append((await s.task(registers)).unwrap())
        async with s.child() as inner:
            found.append((await inner.task(registers)).unwrap())
    assert len(set(found)) == 7


async def test_no_two_tasks_that_suspended_share_a_task_of_the_event_loop() -> None:
    users: dict[object, list[int]] = {}

    async def suspends(number: int) -> None:
        await anyio.sleep(0)
        users.setdefault(running(), []).append(number)

    async with scope() as s:
        for number in range(50):
            s.task(suspends, number)
            s.task(no_op)
    assert all(len(numbers) == 1 for numbers in users.values())


async def test_cancelling_a_scope_reaches_a_task_whose_awaiter_is_shielded() -> None:
    async with scope() as s:

        async def cancel() -> None:
            await anyio.sleep(0.01)
            s.cancel("enough")

        async def wait_shielded() -> None:
            with anyio.CancelScope(shield=True):
                assert isinstance((await s.task(anyio.sleep, 5)).error, TaskCancelled)

        s.task(cancel)
        with anyio.fail_after(2):
            await s.task(wait_shielded).wait()


async def test_cancelling_a_scope_reaches_a_task_that_is_awaited_outside_of_it() -> None:
    results: list[Any] = []

    async def outsider(s: Scope) -> None:
        results.append(await s.task(anyio.sleep, 5))

    with anyio.fail_after(2):
        async with anyio.create_task_group() as group, scope() as s:
            group.start_soon(outsider, s)
            await anyio.sleep(0.01)
            s.cancel("enough")
    assert isinstance(results[0].error, TaskCancelled)


async def test_tasks_that_never_suspend_leave_others_their_turn() -> None:
    turns: list[int] = []

    async def take_turns() -> None:
        for turn in range(3):
            turns.append(turn)
            await anyio.sleep(0)

    async with anyio.create_task_group() as group, scope() as s:
        group.start_soon(take_turns)
        for _ in range(2000):
            await s.task(no_op)
            if len(turns) == 3:
                break
    assert len(turns) == 3


async def test_tasks_inside_each_other_go_as_deep_as_tasks_do() -> None:
    async def descend(s: Scope, levels: int) -> int:
        if levels == 0:
            return 0
        return 1 + (await s.task(descend, s, levels - 1)).unwrap()

    async with scope() as s:
        assert (await s.task(descend, s, 400)).unwrap() == 400


async def test_a_timeout_around_an_awaiter_cancels_the_task_inside() -> None:
    ended: list[bool] = []

    async def work() -> None:
        try:
            await anyio.sleep(5)
        finally:
            ended.append(True)

    async with scope() as s:
        with anyio.move_on_after(0.01) as timeout:
            await s.task(work)
        assert timeout.cancelled_caught
        await anyio.sleep(0.01)
        assert ended
        assert (await s.task(here)).error is None


async def test_many_tasks_that_suspend_begin_within_a_few_turns_of_the_event_loop() -> None:
    begun = 0

    async def begin() -> None:
        nonlocal begun
        begun += 1
        await anyio.sleep_forever()

    async with scope() as s:
        for _ in range(1000):
            s.task(begin)
        for _ in range(7):
            await anyio.sleep(0)
        assert begun == 1000
        s.cancel()


@ON_ASYNCIO
async def test_a_task_that_the_event_loop_cannot_start_is_refused_or_ends_with_the_error() -> None:
    loop = asyncio.get_running_loop()

    def factory(*_: Any, **__: Any) -> Any:
        raise OSError("no more tasks")

    async with scope(inline=True, concurrency=1) as s:
        loop.set_task_factory(factory)
        try:
            with pytest.raises(OSError, match="no more tasks"):
                s.task(here)
        finally:
            loop.set_task_factory(None)
        assert (await s.task(here)).error is None
    async with scope(inline=True) as s:
        tasks = [s.task(here), s.task(here)]
        loop.set_task_factory(factory)  # the second is started when the first suspends
        await anyio.sleep(0)
        loop.set_task_factory(None)
        assert (await tasks[0]).error is None
        assert isinstance((await tasks[1]).error, OSError)


async def test_rule_1_a_task_begins_at_the_next_checkpoint(anyio_backend_name: str) -> None:
    begun: list[int] = []
    turns = 2 if anyio_backend_name == "trio" else 1  # trio runs what is ready in a random order

    async def begin(number: int) -> None:
        begun.append(number)
        await anyio.sleep_forever()

    async with scope() as s:
        for number in range(3):
            s.task(begin, number)
            for _ in range(turns):
                await anyio.sleep(0)
            assert begun[-1] == number
        s.cancel()


@ON_ASYNCIO
async def test_asyncio_cancelling_a_task_ends_it_alone_as_cancelled(inline: bool) -> None:
    ended: list[str] = []

    async def cancel_natively() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await anyio.sleep(1)

    async def work() -> None:
        await anyio.sleep(0.02)
        ended.append("sibling")

    async with scope() as s:
        task = s.task(cancel_natively)
        s.task(work)
        await task.wait()
        assert task.state == "cancelled"
        await anyio.sleep(0.05)
        ended.append("body")
    assert ended == ["sibling", "body"]
    assert isinstance((await task).error, TaskCancelled)


@ON_ASYNCIO
async def test_asyncio_cancelling_the_awaiter_cancels_a_task_inside_of_it(inline: bool) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep(5)
        finally:
            ended.append("task")
            raise OSError("in the clean-up")

    async def run() -> None:
        async with scope(on_error=lambda error: ended.append(str(error))) as s:
            await s.task(work)
            ended.append("body went on")

    task = asyncio.create_task(run())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["task", "in the clean-up"]


@ON_ASYNCIO
async def test_a_stray_cancellation_inside_an_awaiter_is_the_tasks_error_alone() -> None:
    async def await_cancelled_future() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with scope() as s:
        assert isinstance((await s.task(await_cancelled_future)).error, TaskCancelled)
        assert (await s.task(here)).error is None


@ON_ASYNCIO
async def test_rule_17_a_scope_in_a_task_group_of_asyncio_is_cancelled_with_it() -> None:
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise OSError("broken")

    async def work() -> None:
        try:
            await anyio.sleep(5)
        finally:
            ended.append("task")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            async with scope() as s:
                s.task(work)
                await s.task(work)
    assert isinstance(caught.value.exceptions[0], OSError)
    assert ended == ["task", "task"]


@ON_ASYNCIO
async def test_rule_17_a_task_group_of_asyncio_in_a_scope_is_cancelled_with_it() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            ended.append("task")

    async def host() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            await asyncio.sleep(5)

    async with scope() as s:
        s.task(host)
        await anyio.sleep(0.01)
        s.cancel()
    assert ended == ["task"]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01), scope() as s:
            await s.task(work)
    assert ended == ["task", "task"]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_rule_17_scopes_and_nurseries_of_trio_are_cancelled_with_each_other() -> None:
    import trio

    ended: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep(5)
        finally:
            ended.append("task")

    async with scope() as s:

        async def host() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)

        s.task(host)
        await trio.sleep(0.01)
        s.cancel()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            async with scope() as inner:
                await inner.task(work)

        nursery.start_soon(run)
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert ended == ["task", "task"]
