"""A scope belongs to one event loop, and owns the blocks of its children wherever they open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import pytest

from gogoscope import Scope, ScopeClosedError, Task, scope

pytestmark = pytest.mark.anyio


class Running:
    """Runs for a time, and tells whether it does."""

    def __init__(self) -> None:
        self.now = False

    async def __call__(self) -> None:
        self.now = True
        try:
            await anyio.sleep(5)
        finally:
            self.now = False


async def no_op(item: int = 0) -> int:
    return item


CALLS: dict[str, Callable[[Scope, Task[Any]], object]] = {
    "s.task": lambda s, task: s.task(no_op),
    "s.cancel": lambda s, task: s.cancel("from a thread"),
    "task.cancel": lambda s, task: task.cancel("from a thread"),
    "s.map": lambda s, task: aiter(s.map(no_op, [1])),
    "s.every": lambda s, task: s.every(1, no_op),
    "s.child": lambda s, task: s.child(),
    "s.thread": lambda s, task: s.thread(print),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_from_a_thread_is_refused_without_effect(name: str) -> None:
    refused: list[RuntimeError] = []

    async with scope(concurrency=1) as s:
        task = s.task(anyio.sleep_forever)
        await anyio.sleep(0)

        def call() -> None:
            with pytest.raises(RuntimeError, match=r"anyio\.from_thread") as caught:
                CALLS[name](s, task)
            refused.append(caught.value)

        await anyio.to_thread.run_sync(call)
        assert s.cancel_reason is None
        task.cancel("now")
        await task.wait()
        assert await s.task(no_op, 1) == (None, 1)
    assert refused


async def test_through_from_thread_a_scope_can_be_used() -> None:
    def call(s: Scope) -> Any:
        task = anyio.from_thread.run_sync(s.task, no_op, 7)
        return anyio.from_thread.run(task.wait), task

    async with scope() as s:
        _, task = await anyio.to_thread.run_sync(call, s)
        assert await task == (None, 7)


AWAITS: dict[str, Callable[[Scope, Task[Any]], Awaitable[object]]] = {
    "await task": lambda s, task: task,
    "task.wait": lambda s, task: task.wait(),
    "s.call": lambda s, task: s.call(no_op),
    "s.all": lambda s, task: s.all(task),
    "s.race": lambda s, task: s.race([no_op]),
    "s.map": lambda s, task: s.map(no_op, [1]),
}


@pytest.mark.parametrize("name", AWAITS)
async def test_awaiting_in_another_event_loop_is_refused_without_effect(
    name: str, anyio_backend_name: str
) -> None:
    async with scope() as s:
        over = anyio.Event()
        task = s.task(over.wait)

        async def wait() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await AWAITS[name](s, task)

        await anyio.to_thread.run_sync(lambda: anyio.run(wait, backend=anyio_backend_name))
        over.set()
        await task.wait()


async def test_a_block_that_is_left_in_another_task_says_what_to_do() -> None:
    s = scope(name="fixture")
    running = Running()

    async def host() -> None:
        async with s:
            s.task(running)
            await anyio.sleep(5)

    async with anyio.create_task_group() as group:
        group.start_soon(host)
        await anyio.sleep(0.01)
        assert running.now
        with pytest.raises(RuntimeError, match="left in another task than it was entered in"):
            await s.__aexit__(None, None, None)
    assert not running.now


async def test_a_block_that_is_left_before_one_inside_says_so() -> None:
    with pytest.raises(RuntimeError, match="reverse order"):
        async with scope(name="outer") as s:
            inner = s.child(name="inner")
            await inner.__aenter__()
            with pytest.raises(RuntimeError, match="reverse order"):
                await s.__aexit__(None, None, None)
            await inner.__aexit__(None, None, None)
            raise RuntimeError("reverse order was kept")


async def test_no_task_of_a_child_outlives_the_parent_wherever_the_child_was_entered() -> None:
    running = Running()
    async with scope() as other:
        async with scope(on_exit="cancel") as s:

            async def use(child: Scope) -> None:
                async with child as inner:
                    inner.task(running)

            other.task(use, s.child())
            await anyio.sleep(0.03)
            assert running.now
        assert not running.now


async def test_cancelling_a_parent_reaches_a_child_that_was_entered_elsewhere() -> None:
    running = Running()
    async with scope() as other:
        async with scope() as s:

            async def use(child: Scope) -> None:
                async with child as inner:
                    inner.task(running)

            other.task(use, s.child())
            await anyio.sleep(0.03)
            s.cancel("enough")
        assert not running.now


async def test_a_child_of_a_scope_that_has_ended_is_refused() -> None:
    async with scope() as s:
        child = s.child()
    with pytest.raises(ScopeClosedError):
        async with child:
            raise AssertionError("it was entered")
