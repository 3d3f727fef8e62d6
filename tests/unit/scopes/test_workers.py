"""Rule 12: work that repeats."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from gogoscope import TaskCancelled, scope

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def test_rule_12_every_ticks_at_once_and_at_a_fixed_rate() -> None:
    """The tests of the virtual clock hold the rate; here: an error ends it and is its result."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            raise ValueError("enough")

    async with scope() as s:
        task = s.every(0.001, tick)
        assert "every" in task.name
        err, _ = await task
        assert isinstance(err, ValueError)
        assert ticks == 3
        forever = s.every(0.001, partial(give, 1))
        await anyio.sleep(0.01)
        forever.cancel()
        assert isinstance((await forever).error, TaskCancelled)
        with pytest.raises(ValueError, match="interval must be more than 0"):
            s.every(0, tick)
