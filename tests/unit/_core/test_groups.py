"""Tasks beside some code, and asyncio's own cancellation of one of them."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from gogoscope._core.groups import Companion, run_all
from gogoscope.exceptions import TaskCancelled
from gogoscope.persistence import side_by_side
from tests.conftest import EVENT_LOOPS

ON_ASYNCIO = [loop for loop in EVENT_LOOPS if loop.id != "trio"]
on_asyncio = pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
pytestmark = pytest.mark.anyio


async def test_functions_run_side_by_side() -> None:
    met = anyio.Event()
    ended: list[str] = []

    async def waits() -> None:
        await met.wait()
        ended.append("waits")

    async def comes() -> None:
        met.set()
        ended.append("comes")

    with anyio.fail_after(5):
        await run_all([waits, comes])
        await run_all([])
        await run_all([comes])
    assert ended == ["comes", "waits", "comes"]


@on_asyncio
@pytest.mark.parametrize("begun", [False, True])
async def test_what_asyncio_cancels_cuts_no_other_and_runs_all_the_same_if_it_had_not_begun(
    begun: bool,
) -> None:
    ended: list[int] = []
    before = asyncio.all_tasks()

    async def cancels() -> None:
        if begun:
            await anyio.sleep(0)
        for task in asyncio.all_tasks() - before - {asyncio.current_task()}:
            task.cancel()

    async def work(number: int) -> None:
        await anyio.sleep(0.001)
        ended.append(number)

    async def late() -> None:
        await anyio.sleep(0.01)
        await work(2)

    await run_all([cancels, lambda: work(1)])
    assert ended == ([] if begun else [1])
    await run_all([lambda: work(2), late])
    assert ended[-2:] == [2, 2]


async def test_a_companion_runs_beside_the_code_until_it_ends() -> None:
    told, steps = anyio.Event(), []

    async def work() -> None:
        steps.append("begun")
        await told.wait()
        steps.append("ended")

    companion = Companion(work, "companion", lambda: steps.append("never begun"))
    await companion.begin()
    await anyio.sleep(0.01)
    told.set()
    await companion.end()
    assert steps == ["begun", "ended"]


@on_asyncio
async def test_a_companion_that_asyncio_cancels_before_it_begins_cuts_nothing_and_says_so() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")

    companion = Companion(work, "companion", lambda: steps.append("never begun"))
    await companion.begin()
    for task in asyncio.all_tasks():
        if task.get_name() == "companion":
            task.cancel()
    await anyio.sleep(0.01)
    assert steps == ["never begun"]
    await companion.end()
    assert steps == ["never begun"]


@on_asyncio
@pytest.mark.parametrize("begun", [False, True])
async def test_pieces_that_asyncio_cancels_are_an_error_and_never_taken_for_done(
    begun: bool,
) -> None:
    before = asyncio.all_tasks()

    async def piece() -> None:
        await anyio.sleep(0.01)

    with pytest.raises(TaskCancelled, match=r"Task\.cancel"):
        async with side_by_side() as start:
            await start(piece)
            if begun:
                await anyio.sleep(0)
            for task in asyncio.all_tasks() - before:
                task.cancel()
