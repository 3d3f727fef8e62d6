"""Retries without their delays, for tests of programs that retry."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, LeaseLostError, Retry, scope
from gogoscope.persistence import current_clock
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock, instant_retries
from gogoscope.testing.conformance import ManualClock


async def broken() -> None:
    raise ValueError("broken")


@pytest.mark.anyio
async def test_retries_are_instant_inside_the_block_only() -> None:
    delays: list[float] = []
    policy = Retry(5, delay=1000, on_retry=lambda attempt, error, delay: delays.append(delay))
    with instant_retries(), anyio.fail_after(5):
        async with scope() as s:
            await s.task(broken, retry=policy)
    assert delays == [1000] * 4
    with anyio.move_on_after(0.01) as waited:
        await policy.call(broken)
    assert waited.cancelled_caught


@pytest.mark.anyio
async def test_retries_are_instant_with_the_fixture(instant_retries: None) -> None:
    with anyio.fail_after(5), pytest.raises(ValueError, match="broken"):
        await Retry(5, delay=1000).call(broken)

