"""What a wrong clock wrote is believed for no longer than it says that it lasts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import Scope, scope
from gogoscope.persistence import RecordStore, current_clock
from gogoscope.persistence.lock_watching import RESERVATION_SECONDS
from gogoscope.stores.memory import MemoryRecords
from gogoscope.testing import VirtualClock
from tests.support.backends import Backend

HOUR = 3600.0
LEASE = 1.0


class FleetRecords(MemoryRecords):
    """Records that machines share, so that leases count by the wall clock."""

    ahead = 0.0

    def steady(self) -> None:
        return None

    def now_ms(self) -> int:
        return int((current_clock.wall() + self.ahead) * 1000)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def asked_until_had(s: Scope, *, at_most: float) -> float:
    began = anyio.current_time()
    while await s.acquire_lock("job", LEASE) is None:
        assert anyio.current_time() - began < at_most, "it is believed for longer than it lasts"
        await anyio.sleep(0.25)
    return anyio.current_time() - began


async def waited_for(s: Scope, *, at_most: float) -> float:
    began = anyio.current_time()
    while True:
        assert anyio.current_time() - began < at_most, "it is believed for longer than it lasts"
        if await s.acquire_lock("job", LEASE, wait=0.3) is not None:
            return anyio.current_time() - began
        await anyio.sleep(0.1)


async def loaded(s: Scope, *, at_most: float) -> float:
    began = anyio.current_time()
    with anyio.fail_after(at_most):
        await s.cache.get_or_set("page", load, 60, lease=LEASE)
    return anyio.current_time() - began


async def load() -> str:
    return "loaded"


Ask = Callable[..., Awaitable[float]]


@pytest.mark.parametrize("ask", [asked_until_had, waited_for, loaded])
def test_a_dead_holder_whose_clock_was_ahead_keeps_its_lock_for_one_lease(
    virtual_clock: VirtualClock, backend: Backend, ask: Ask
) -> None:
    async def program() -> None:
        records = FleetRecords()
        store = RecordStore(records)
        records.ahead = HOUR
        assert await store.acquire("get_or_set:page" if ask is loaded else "job", LEASE)
        records.ahead = 0.0
        async with scope(persistence=store) as s:
            assert await ask(s, at_most=2 * LEASE) >= LEASE

    virtual_clock.run(program, backend=backend)


@pytest.mark.parametrize("ask", [asked_until_had, waited_for])
def test_a_dead_waiter_whose_clock_was_ahead_reserves_no_longer_than_reservations_last(
    virtual_clock: VirtualClock, backend: Backend, ask: Ask
) -> None:
    async def program() -> None:
        records = FleetRecords()
        store = RecordStore(records)
        handle = await store.acquire("job", 30)
        assert handle is not None
        records.ahead = HOUR
        assert (await store.reserve_lock("job", "dead", 1000)).granted
        records.ahead = 0.0
        assert await handle.release()
        async with scope(persistence=store) as s:
            await ask(s, at_most=2 * RESERVATION_SECONDS)

    virtual_clock.run(program, backend=backend)


def test_what_was_seen_long_ago_keeps_nobody_from_a_lock_that_is_free(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = RecordStore(FleetRecords())
        async with scope(persistence=store) as s:
            handle = await store.acquire("job", 30)
            assert handle is not None
            assert await s.acquire_lock("job", 1) is None
            assert await handle.release()
            await anyio.sleep(HOUR)
            again = await s.acquire_lock("job", 1)
            assert again is not None
            assert await again.release()
            assert await store.acquire("job", 1)

    virtual_clock.run(program, backend=backend)


def test_a_holder_that_renews_is_never_taken_for_dead(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = RecordStore(FleetRecords())
        async with scope(persistence=store) as s, s.lock("job", ttl=LEASE) as locked:
            for _ in range(40):
                assert await store.acquire("job", LEASE) is None
                await anyio.sleep(0.25)
                locked.ensure()

    virtual_clock.run(program, backend=backend)
