"""What blocks ask of their event loop, however that was started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from gogoscope import Ok, scope
from gogoscope._core.event_loop import running

uvloop: Any = pytest.importorskip("uvloop")


async def nothing() -> str:
    return "done"


async def side_by_side() -> None:
    """Run tasks that no other task awaits when they begin."""
    async with scope() as s:
        tasks = [s.task(nothing) for _ in range(3)]
        assert await s.all(*tasks) == (Ok(None, "done"),) * 3
        s.every(3600, nothing)
        s.task(s.stopping.wait)
        await s.stop(grace=1)


def eagerly(main: Coroutine[Any, Any, None]) -> None:
    async def start() -> None:
        factory = getattr(asyncio, "eager_task_factory", None)
        if factory is None:
            pytest.skip("this Python has no eager tasks")
        asyncio.get_running_loop().set_task_factory(factory)
        await main

    try:
        asyncio.run(start())
    finally:
        main.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run, eagerly])
def test_tasks_run_in_a_program_that_anyio_did_not_start(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    run(side_by_side())


def test_tasks_run_in_a_program_that_trio_started() -> None:
    trio.run(side_by_side)


@pytest.mark.anyio
async def test_a_checkpoint_raises_only_where_the_loop_says_that_it_may(
    anyio_backend_name: str,
) -> None:
    loop = running()
    asks_trio = anyio_backend_name == "trio"
    with anyio.CancelScope() as outer:
        assert loop.may_be_cancelled() is asks_trio
        with anyio.CancelScope(shield=True), anyio.CancelScope():
            outer.cancel()
            assert loop.may_be_cancelled() is asks_trio
        with anyio.CancelScope():
            assert loop.may_be_cancelled()
        assert loop.may_be_cancelled()
        await anyio.lowlevel.checkpoint()
    assert outer.cancelled_caught
