"""What is finished at the end of a block, whatever cancels the block."""

from __future__ import annotations

import asyncio
from typing import Literal

import anyio
import pytest

from gogoscope._core.cancellation import finish
from gogoscope.testing import VirtualClock

pytestmark = pytest.mark.anyio

BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])


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
    virtual_clock: VirtualClock, backend: Literal["asyncio", "trio"]
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
