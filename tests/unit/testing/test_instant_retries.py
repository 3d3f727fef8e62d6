"""Retries without their delays, for tests of programs that retry."""

from __future__ import annotations

import anyio
import pytest

from gogoscope import Retry, scope
from gogoscope.testing import instant_retries


async def broken() -> None:
    raise ValueError("broken")


@pytest.mark.anyio
async def test_retries_are_instant_inside_the_block_only() -> None:
    delays: list[float] = []
    policy = Retry(5, delay=1000, on_retry=lambda attempt, error, delay: delays.append(delay))
    with instant_retries(), anyio.fail_after(5):
        async with scope() as s:
            _ = (await s.task(broken, retry=policy)).error
    assert delays == [1000] * 4
    with anyio.move_on_after(0.01) as waited:
        await policy.call(broken)
    assert waited.cancelled_caught


@pytest.mark.anyio
async def test_retries_are_instant_with_the_fixture(instant_retries: None) -> None:
    with anyio.fail_after(5), pytest.raises(ValueError, match="broken"):
        await Retry(5, delay=1000).call(broken)
