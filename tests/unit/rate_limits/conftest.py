"""Time is virtual in the tests of rate limits, so each call goes at an exact time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope.persistence.rate_records import RateReply
from gogoscope.stores import MemoryStore
from gogoscope.testing import VirtualClock

Run = Callable[[Callable[[], Awaitable[None]]], None]


class CountingStore(MemoryStore):
    """A store that counts its requests, and answers after ``delay`` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.delay = 0.0

    def elsewhere(self) -> CountingStore:
        """Return the same store as another process has it."""
        return copy.copy(self)

    async def _request(self, name: str) -> None:
        self.requests[name] += 1
        if self.delay:
            await anyio.sleep(self.delay)

    async def reserve_rate(self, name: str, cost_us: int, burst_us: int, wait_us: int) -> RateReply:
        await self._request("reserve")
        return await super().reserve_rate(name, cost_us, burst_us, wait_us)

    async def return_rate(self, name: str, tat_us: int, cost_us: int) -> bool:
        await self._request("return")
        return await super().return_rate(name, tat_us, cost_us)

    async def pause_rate(self, name: str, pause_us: int, burst_us: int) -> RateReply:
        await self._request("pause")
        return await super().pause_rate(name, pause_us, burst_us)

    async def read_rate(self, name: str) -> RateReply | None:
        await self._request("read")
        return await super().read_rate(name)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return what runs an async function in virtual time."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        clock: Any = VirtualClock()
        clock.run(main, backend=request.param)

    return run
