"""How many requests a tick takes, with ten processes."""

from __future__ import annotations

import contextlib

import anyio
import pytest

from gogoscope import Tick, interval, scope
from gogoscope.persistence import current_clock
from gogoscope.stores import MemoryStore
from gogoscope.testing import UnpluggableStore, VirtualClock

PROCESSES, TICKS = 10, 400


@pytest.mark.parametrize("period", [1, 5])
def test_a_tick_takes_at_most_seven_requests_with_ten_processes(period: float) -> None:
    ran: list[Tick] = []

    async def job(tick: Tick) -> None:
        ran.append(tick)

    async def program() -> float:
        shared = MemoryStore()
        stores = [UnpluggableStore(shared) for _ in range(PROCESSES)]
        async with contextlib.AsyncExitStack() as processes:
            for store in stores:
                s = await processes.enter_async_context(scope(persistence=store))
                s.schedule("s", interval(period), job)
                processes.callback(s.stopping.set)
            await anyio.sleep(10 * period)
            before = sum(store.requests.total() for store in stores)
            began = len(ran)
            start = current_clock.wall()
            await anyio.sleep(TICKS * period)
            requests = sum(store.requests.total() for store in stores) - before
            assert len(ran) - began in (TICKS, TICKS + 1)
            assert current_clock.wall() - start < (TICKS + 1) * period
        return requests / TICKS

    requests = VirtualClock().run(program)
    print(f"{requests:.2f} requests a tick of {period} s")
    assert requests <= 7
