"""Schedules on DynamoDB: ticks are due by the server's time, however wrong a machine's clock is."""

from __future__ import annotations

import time

import anyio
import pytest

from gogoscope import Tick, interval, scope
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from tests.support.clocks import WrongClock

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio")]

HOUR = 3600.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("error", [3 * HOUR, -3 * HOUR])
async def test_ticks_come_on_time_where_a_clock_is_wrong_by_hours(
    dynamodb_client: DynamoDBClient, dynamodb_table: str, error: float
) -> None:
    store = DynamoDBAdapter(dynamodb_client, dynamodb_table, clock=WrongClock(error))
    ran: list[tuple[float, float]] = []

    async def job(tick: Tick) -> None:
        ran.append((tick.at.timestamp(), time.time()))

    async with scope(persistence=store) as s:
        s.schedule("s", interval(1), job)
        with anyio.fail_after(60):
            while len(ran) < 2:
                await anyio.sleep(0.05)
        await s.stop()
    for at, began in ran:
        assert abs(began - at) < HOUR / 2


async def test_a_clock_that_is_set_neither_stops_a_schedule_nor_runs_ahead(
    dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> None:
    clock = WrongClock(0.0)
    store = DynamoDBAdapter(dynamodb_client, dynamodb_table, clock=clock)
    ran: list[float] = []

    async def job(tick: Tick) -> None:
        ran.append(tick.at.timestamp() - time.time())

    async with scope(persistence=store) as s:
        s.schedule("s", interval(1), job)
        with anyio.fail_after(90):
            for clock.error in (0.0, 5 * HOUR, -5 * HOUR, 0.0):
                count = len(ran)
                while len(ran) < count + 2:
                    await anyio.sleep(0.05)
        await s.stop()
    assert all(abs(apart) < HOUR for apart in ran)


async def test_a_schedule_that_is_continued_by_a_clock_that_is_ahead_goes_on(
    dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> None:
    right = DynamoDBAdapter(dynamodb_client, dynamodb_table)
    await right.open_schedule("s", "every 1 s", None)
    assert await right.pause_schedule("s")
    ahead = DynamoDBAdapter(dynamodb_client, dynamodb_table, clock=WrongClock(3 * HOUR))
    assert await ahead.continue_schedule("s")
    record = await right.read_schedule("s")
    assert record is not None
    assert abs(record.after_ms / 1000 - time.time()) < HOUR
