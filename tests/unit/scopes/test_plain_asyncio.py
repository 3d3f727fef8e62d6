"""Programs that asyncio itself runs: outside of tasks, nothing tells anyio what it runs on."""

from __future__ import annotations

import asyncio
from functools import partial

import anyio
import pytest

from gogoscope import scope


@pytest.mark.parametrize("shared", [True, False])
def test_what_asyncio_cancels_before_its_first_step_ends_where_anyio_runs_nothing(
    shared: bool,
) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), scope(inline=shared) as s:
            before = asyncio.all_tasks()
            tasks = [s.task(anyio.sleep_forever) for _ in range(2)]
            mapped = s.task(partial(s.map, asyncio.sleep, [0.0, 0.0]))
            for task in asyncio.all_tasks() - before:
                task.cancel()
            if shared:  # another worker takes their place
                assert len((await mapped).unwrap()) == 2
                s.cancel()
            for ended in tasks:
                await ended.wait()
                assert ended.state == "cancelled"

    asyncio.run(main())


def test_a_map_that_another_thread_drops_ends_where_anyio_runs_nothing() -> None:
    async def main() -> None:
        async with asyncio.timeout(20), scope() as s:
            loops = [aiter(s.map(asyncio.sleep, [0.0, 3600.0], limit=2))]
            await anext(loops[0])
            await anyio.to_thread.run_sync(loops.clear)

    asyncio.run(main())
