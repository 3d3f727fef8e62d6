"""Rules 2, 3, 5, 7 and 8: how a block ends, what failures cancel, timeouts, and what goes out."""

from __future__ import annotations

import functools
import logging
import threading
from datetime import timedelta
from typing import Any

import anyio
import pytest

from gogoscope import Scope, ScopeClosedError, Task, TaskCancelled, scope

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def fail(error: Exception) -> None:
    await anyio.sleep(0)
    raise error


async def cancelled_outside(fn: Any) -> None:
    """Run ``fn(started)`` and cancel it from outside once it says that it started."""
    async with anyio.create_task_group() as group:
        started = anyio.Event()
        group.start_soon(fn, started)
        await started.wait()
        group.cancel_scope.cancel()


async def test_rule_1_the_scope_is_named_after_its_function() -> None:
    async with scope() as s:
        assert s.name.endswith("test_rule_1_the_scope_is_named_after_its_function")
        assert __name__ in s.name
        assert s.task(give, 1).name == "give"
        assert s.task(functools.partial(give, 1)).name == "give"


# Rule 2: the end of the block


async def test_rule_2_leaving_waits_for_every_task() -> None:
    async with scope() as s:
        task = s.task(anyio.sleep, 0.02)
        inner = s.task(lambda: s.task(anyio.sleep, 0.03))
    assert task.done
    assert inner.done


async def test_rule_2_an_exception_in_the_body_cancels_the_tasks_and_goes_out() -> None:
    tasks: list[Task[None]] = []
    with pytest.raises(KeyError, match="body"):
        async with scope() as s:
            tasks.append(s.task(anyio.sleep_forever))
            await anyio.sleep(0)
            raise KeyError("body")
    err, _ = await tasks[0]
    assert isinstance(err, TaskCancelled)
    assert "KeyError" in str(err)


async def test_rule_2_cancel_ends_the_block_without_an_exception_and_tells_why() -> None:
    async with scope() as s:
        task = s.task(anyio.sleep_forever)
        s.cancel("enough")
        await anyio.sleep_forever()
    assert s.cancel_reason == "enough"
    assert (await task).error.args == ("enough",)  # type: ignore[union-attr]


async def test_rule_2_on_exit_cancel_cancels_what_still_runs() -> None:
    async with scope(on_exit="cancel") as s:
        task = s.task(anyio.sleep_forever)
        await anyio.sleep(0)
    assert isinstance((await task).error, TaskCancelled)


async def test_rule_2_a_finally_block_ends_before_the_scope_does() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            ended = True

    async with scope() as s:
        s.task(work)
        await anyio.sleep(0.01)
        s.cancel()
    assert ended


async def test_rule_2_a_worker_thread_is_waited_for() -> None:
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(5)
        ended.set()

    async with scope() as s:
        s.thread(work)
        while not started.is_set():
            await anyio.sleep(0.001)
        s.cancel()
        release.set()
    assert ended.is_set()


async def test_rule_2_a_task_may_start_tasks_while_the_block_ends() -> None:
    results: list[int] = []

    async def parent(s: Scope) -> None:
        await anyio.sleep(0.01)
        results.append((await s.task(give, 7)).unwrap())

    async with scope() as s:
        s.task(parent, s)
    assert results == [7]


# Rule 3: siblings


async def test_rule_3_a_failed_task_does_not_cancel_its_siblings() -> None:
    async with scope() as s:
        sibling = s.task(anyio.sleep, 0.02)
        err, _ = await s.task(fail, ValueError("no"))
        assert isinstance(err, ValueError)
    assert (await sibling).error is None


async def test_rule_3_fail_fast_cancels_the_scope_and_raises_the_first_error() -> None:
    error = ValueError("first")
    tasks: list[Task[None]] = []
    with pytest.raises(ValueError, match="first") as caught:
        async with scope(fail_fast=True) as s:
            tasks.append(s.task(anyio.sleep_forever))
            s.task(fail, error)
            await anyio.sleep_forever()
    assert caught.value is error
    assert isinstance((await tasks[0]).error, TaskCancelled)


async def test_rule_3_fail_fast_raises_an_error_that_was_looked_at() -> None:
    with pytest.raises(ValueError, match="seen"):
        async with scope(fail_fast=True) as s:
            err, _ = await s.task(fail, ValueError("seen"))
            assert isinstance(err, ValueError)


# Rule 5: timeouts


async def test_rule_5_the_scope_timeout_cancels_and_raises() -> None:
    tasks: list[Task[None]] = []
    with pytest.raises(TimeoutError, match=r"'orders' took longer than its timeout of 0\.02 s"):
        async with scope(name="orders", timeout=timedelta(milliseconds=20)) as s:
            tasks.append(s.task(anyio.sleep_forever))
            await anyio.sleep_forever()
    assert isinstance((await tasks[0]).error, TaskCancelled)


async def test_rule_5_the_scope_timeout_counts_while_tasks_are_waited_for() -> None:
    with pytest.raises(TimeoutError):
        async with scope(timeout=0.02) as s:
            s.task(anyio.sleep_forever)


# Rule 7: what is never a result


async def test_rule_7_a_cancellation_from_outside_goes_on() -> None:
    events: list[str] = []

    async def program(started: anyio.Event) -> None:
        async with scope() as s:
            task = s.task(anyio.sleep_forever)
            started.set()
            try:
                await task
            finally:
                events.append("cancelled")
        events.append("never")

    await cancelled_outside(program)
    assert events == ["cancelled"]


async def test_rule_7_a_stray_cancellation_is_an_error(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("nobody can raise trio.Cancelled by hand")

    async def work() -> None:
        raise anyio.get_cancelled_exc_class()

    async with scope() as s:
        err, _ = await s.task(work)
        assert isinstance(err, TaskCancelled)
        await anyio.sleep(0)


async def test_rule_7_asyncio_cancelling_the_host_task_goes_on(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("tasks of trio have no cancel method")
    import asyncio

    ended = asyncio.Event()

    async def program() -> None:
        async with scope() as s:
            s.task(anyio.sleep_forever)
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

    task = asyncio.create_task(program())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert task.cancelled()


async def test_rule_7_asyncio_cancelling_while_tasks_are_waited_for(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("tasks of trio have no cancel method")
    import asyncio

    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            ended.append("work")

    async def program() -> None:
        async with scope() as s:
            s.task(work)

    task = asyncio.create_task(program())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]


# Rule 8: after the block


async def test_rule_8_a_closed_scope_takes_no_task() -> None:
    s = scope(name="orders")
    with pytest.raises(ScopeClosedError, match="orders"):
        s.task(give, 1)
    async with s:
        pass
    with pytest.raises(ScopeClosedError, match="orders"):
        s.task(give, 1)
    with pytest.raises(ScopeClosedError):
        await s.acquire_lock("key", 1)
    with pytest.raises(ScopeClosedError, match="one block"):
        async with s:
            pass


async def test_rule_8_a_closed_scope_takes_no_child() -> None:
    async with scope() as s:
        late = s.child()
    with pytest.raises(ScopeClosedError):
        s.child()
    with pytest.raises(ScopeClosedError):
        async with late:
            pytest.fail("it began after its parent had ended")


async def test_rule_8_after_cancel_a_task_is_finished_at_once() -> None:
    async with scope() as s:
        s.cancel("enough")
        task = s.task(give, 1)
        assert task.done
        assert (await task).error.args == ("enough",)  # type: ignore[union-attr]


def test_the_module_logger_is_silent_by_default() -> None:
    assert not logging.getLogger("gogoscope").handlers
