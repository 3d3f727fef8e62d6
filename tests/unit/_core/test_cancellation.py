"""What is finished at the end of a block, whatever cancels the block."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from gogoscope import TaskCancelled
from gogoscope._core.cancellation import error_of_call, finish, is_cancellation_of_caller
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend

pytestmark = pytest.mark.anyio


def cancelled_only() -> list[BaseException]:
    cancelled: Any = anyio.get_cancelled_exc_class()
    native = cancelled() if cancelled is asyncio.CancelledError else cancelled._create()
    told = TaskCancelled("stop")
    return [
        native,
        told,
        ExceptionGroup("any", [told, ExceptionGroup("inner", [told])]),
        BaseExceptionGroup("mixed", [native, told]),
    ]


async def test_what_only_says_cancelled_is_the_callers_cancellation_if_it_is_cancelled() -> None:
    with anyio.CancelScope() as outside:
        outside.cancel()
        assert all(is_cancellation_of_caller(error) for error in cancelled_only())
        assert [error_of_call(error) for error in cancelled_only()] == [None] * 4


async def test_a_cancellation_while_nobody_cancels_the_caller_is_an_error_of_the_call() -> None:
    assert not any(is_cancellation_of_caller(error) for error in cancelled_only())
    native, told, group, mixed = cancelled_only()
    assert error_of_call(told) is told
    assert error_of_call(group) is group
    for raised in (native, mixed):
        stray = error_of_call(raised)
        assert isinstance(stray, TaskCancelled)
        assert stray.__cause__ is raised


async def test_a_shield_keeps_the_cancellation_outside_of_it_from_the_caller() -> None:
    with anyio.CancelScope() as outside:
        outside.cancel()
        with anyio.CancelScope(shield=True):
            assert not is_cancellation_of_caller(TaskCancelled("stop"))


async def test_a_group_with_another_error_is_no_cancellation() -> None:
    group = ExceptionGroup("several", [TaskCancelled("stop"), OSError("broken")])
    with anyio.CancelScope() as outside:
        outside.cancel()
        assert not is_cancellation_of_caller(group)
        assert error_of_call(group) is group
        assert error_of_call(KeyboardInterrupt()) is None


def test_asyncios_own_cancellation_is_the_callers() -> None:
    async def program() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await anyio.sleep(0)
        assert is_cancellation_of_caller(raised.value)
        task.uncancel()
        assert not is_cancellation_of_caller(raised.value)

    asyncio.run(program())


async def test_finish_returns_what_the_work_returned() -> None:
    async def work() -> int:
        return 7

    assert await finish(work, 1) == 7


async def test_finish_is_shielded_from_what_cancels_the_block() -> None:
    async def work() -> str:
        await anyio.sleep(0)
        return "done"

    with anyio.CancelScope() as outside:
        outside.cancel()
        assert await finish(work, 1) == "done"


@BOTH
def test_finish_returns_none_for_work_that_takes_too_long(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def work() -> str:
        await anyio.sleep_forever()
        return "never"

    async def program() -> None:
        assert await finish(work, 3) is None

    virtual_clock.run(program, backend=backend)
    assert virtual_clock.elapsed() == pytest.approx(3)


async def test_finish_raises_what_the_work_raises() -> None:
    async def work() -> None:
        raise KeyError("work")

    with pytest.raises(KeyError, match="work"):
        await finish(work, 1)


@pytest.mark.parametrize("second", ["ends", "fails"])
def test_asyncios_own_cancellation_goes_on_once_the_work_is_done_again(second: str) -> None:
    done: list[str] = []

    async def program() -> None:
        begun = asyncio.Event()

        async def work() -> None:
            done.append("begun")
            if len(done) == 1:
                begun.set()
                await asyncio.sleep(60)
            done.append("ended")
            if second == "fails":
                raise KeyError("work")

        task = asyncio.ensure_future(finish(work, 60))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(program())
    assert done == ["begun", "begun", "ended"]
