"""What asyncio's own ``Task.cancel()`` hits ends alone: siblings and the body go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope import Ok, Result, Scope, Task, TaskCancelled, scope
from tests.conftest import EVENT_LOOPS

ON_ASYNCIO = [loop for loop in EVENT_LOOPS if loop.id != "trio"]
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)]


async def double(number: int) -> int:
    await anyio.lowlevel.checkpoint()
    return 2 * number


def cancel_what_is_new(before: set[asyncio.Task[Any]], sibling: str | None = None) -> int:
    """Cancel the tasks of the event loop that have come up since; return how many."""
    new = [task for task in asyncio.all_tasks() - before if task.get_name() != sibling]
    for task in new:
        task.cancel()
    return len(new)


async def test_tasks_that_have_not_begun_end_alone(inline: bool) -> None:
    async with scope() as s:
        sibling = s.task(double, 1, name="sibling")
        before = asyncio.all_tasks()
        tasks = [s.task(double, number) for number in range(3)]
        assert cancel_what_is_new(before) == (0 if inline else 3)
        for task in tasks:
            result = await task
            assert isinstance(result.error, type(None) if inline else TaskCancelled)
        assert await sibling == Ok(None, 2)
    assert s.cancel_reason is None


async def test_of_tasks_that_have_not_begun_the_one_that_is_cancelled_ends() -> None:
    async with scope(inline=False) as s:
        first, second, third = (s.task(double, number, name=str(number)) for number in range(3))
        for task in asyncio.all_tasks():
            if task.get_name() == "1":
                task.cancel()
        assert [(await task).value for task in (first, third)] == [0, 4]
        assert isinstance((await second).error, TaskCancelled)


async def test_a_worker_that_has_not_begun_is_replaced() -> None:
    async with scope(inline=True) as s:
        before = asyncio.all_tasks()
        tasks = [s.task(double, number) for number in range(3)]
        while not cancel_what_is_new(before):
            await asyncio.sleep(0)
        assert [(await task).value for task in tasks] == [0, 2, 4]


@pytest.mark.parametrize("kind", ["container", "generator", "async generator"])
async def test_workers_and_sources_of_a_map_that_have_not_begun_end_alone(kind: str) -> None:
    def generator() -> Iterator[int]:
        yield from range(3)

    async def async_generator() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    items: Any = {
        "container": [0, 1, 2],
        "generator": generator(),
        "async generator": async_generator(),
    }
    results: list[Result[int]] = []
    async with scope() as s:
        sibling = s.task(double, 1, name="sibling")
        before = asyncio.all_tasks()
        stream = aiter(s.map(double, items[kind]))
        assert cancel_what_is_new(before) == 1
        if kind == "container":
            results += [result async for result in stream]
            assert results == [Ok(None, 0), Ok(None, 2), Ok(None, 4)]
        else:
            with pytest.raises(TaskCancelled, match="the source of"):
                await anext(stream)
        assert await sibling == Ok(None, 2)


async def test_everything_that_has_not_begun_ends_and_the_body_goes_on() -> None:
    went_on = False
    async with scope(inline=False) as s:
        before = asyncio.all_tasks()
        tasks = [s.task(anyio.sleep_forever, dedupe="key"), s.task(anyio.sleep_forever)]
        cancel_what_is_new(before)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        went_on = True
    assert went_on
    assert [task.state for task in tasks] == ["cancelled"] * 2


@pytest.mark.parametrize("begun", [True, False])
async def test_work_in_the_background_ends_alone(begun: bool) -> None:
    runs = 0

    async def serve() -> None:
        nonlocal runs
        runs += 1
        await anyio.sleep_forever()

    async def check(s: Scope) -> None:
        assert await s.task(double, 1) == Ok(None, 2)
        assert await s.map(double, [1]) == [Ok(None, 2)]

    async with scope() as s:
        before = asyncio.all_tasks()
        assert s._home.spawn(serve, brief=False)
        if begun:
            await asyncio.sleep(0)
        assert cancel_what_is_new(before) == 1
        for _ in range(3):
            await asyncio.sleep(0)
            await check(s)
        assert runs == 1  # what has not begun begins again


async def test_a_task_that_has_not_begun_settles_for_who_awaits_it_in_another_scope() -> None:
    async with scope() as outer, scope(inline=False) as inner:
        before = asyncio.all_tasks()
        task = inner.task(anyio.sleep_forever)
        cancel_what_is_new(before)

        async def look() -> bool:
            return isinstance((await task).error, TaskCancelled)

        assert await outer.task(look) == Ok(None, True)


async def cancel_own_task() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "returned all the same"


async def test_what_cancels_its_own_task_and_returns_hits_nothing_that_comes_after_it() -> None:
    async with scope() as s:
        tasks: list[Any] = [s.task(cancel_own_task), s.task(double, 1), s.task(double, 2)]
        assert [(await task).value for task in tasks] == ["returned all the same", 2, 4]


async def test_an_item_that_cancels_its_worker_and_returns_hits_no_other_item() -> None:
    async def work(number: int) -> object:
        return await (double(number) if number else cancel_own_task())

    async with scope() as s:
        results = await s.map(work, range(3))
        assert [result.value for result in results] == ["returned all the same", 2, 4]


@pytest.mark.parametrize("later", [False, True], ids=["at once", "after a pause"])
async def test_a_task_inside_its_awaiter_that_cancels_its_own_task_cancels_the_awaiter(
    later: bool,
) -> None:
    went_on: list[object] = []

    async def cancel_it() -> None:
        if later:
            await anyio.sleep(0)
        await cancel_own_task()
        await anyio.sleep(60)

    async def run() -> None:
        async with scope(inline=True) as s:
            went_on.append(await s.task(cancel_it))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(run())
    assert went_on == []


async def test_an_error_of_a_losers_clean_up_is_told_though_the_race_was_cancelled_meanwhile() -> (
    None
):
    kept: list[BaseException] = []
    cleaning_up = anyio.Event()

    async def lose() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaning_up.set()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            raise OSError("clean-up")

    async def run(s: Scope) -> None:
        try:
            await s.race([lose, anyio.lowlevel.checkpoint])
        except BaseException as cancelled:
            kept.append(cancelled)
            raise

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            racing = asyncio.create_task(run(s))
            await cleaning_up.wait()
            racing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await racing
    assert [str(error) for error in caught.value.exceptions] == ["clean-up"]


async def test_a_task_whose_awaiter_is_closed_in_another_thread_is_cancelled() -> None:
    async def wait_for(task: Task[None]) -> None:
        await task

    async with scope() as s:
        task = s.task(anyio.sleep_forever)
        await anyio.lowlevel.checkpoint()
        waiting = wait_for(task)
        waiting.send(None)
        collector = threading.Thread(target=waiting.close)
        collector.start()
        collector.join()
        with anyio.move_on_after(5):
            await task.wait()
        assert task.state == "cancelled"
        s.cancel()
