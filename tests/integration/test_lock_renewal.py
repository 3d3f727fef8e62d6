"""Other traffic cannot starve the renewal of a lock."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest

from gogoscope import StoreTimeoutError, scope
from gogoscope.persistence.sqlite import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import POOL_SIZE
from tests.engines import Engine
from tests.integration.torture_parts.proxy import FaultyProxy

pytestmark = pytest.mark.anyio


class SlowReads(FaultyProxy):
    """Takes its time for each GetItem."""

    async def received(self, request: bytes) -> None:
        if b".GetItem" in request:
            self.done["reads"] += 1
            await anyio.sleep(0.6)


async def test_on_dynamodb_a_pool_full_of_slow_requests_does_not_delay_renewals(
    on_asyncio: None, dynamodb_engine: Engine, dynamodb_table: str
) -> None:
    proxy = SlowReads(random.Random(1))
    async with (
        proxy.running(dynamodb_engine.endpoint_url),
        DynamoDBAdapter(None, dynamodb_table, endpoint_url=proxy.url, request_timeout=30) as store,
        anyio.create_task_group() as group,
    ):

        async def read() -> None:
            await store.get("value")

        async with scope(persistence=store) as s, s.lock("job", ttl=0.9) as locked:
            for _ in range(6 * POOL_SIZE):
                group.start_soon(read)
            for _ in range(10):
                await anyio.sleep(0.2)
                locked.ensure()
        assert proxy.done["reads"] >= POOL_SIZE
        group.cancel_scope.cancel()


async def test_on_dynamodb_requests_wait_for_room_and_all_get_it(
    on_asyncio: None, dynamodb_engine: Engine, dynamodb_table: str
) -> None:
    async with DynamoDBAdapter(
        None, dynamodb_table, endpoint_url=dynamodb_engine.endpoint_url
    ) as store:
        async with anyio.create_task_group() as group:
            for number in range(5 * POOL_SIZE):
                group.start_soon(store.set, f"key {number}", number)
        assert await store.get(f"key {5 * POOL_SIZE - 1}") == 5 * POOL_SIZE - 1


async def test_on_sqlite_a_queue_of_other_operations_does_not_lose_a_lock(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        done = 0

        async def write(number: int) -> None:
            nonlocal done
            for step in range(10):
                await store.set(f"key {number}", step)
                done += 1

        async with (
            scope(persistence=store) as s,
            s.lock("job", ttl=1) as locked,
            anyio.create_task_group() as group,
        ):
            for number in range(200):
                group.start_soon(write, number)
            while done < 2000:
                await anyio.sleep(0.05)
                locked.ensure()


async def test_a_request_that_waits_for_its_turn_still_times_out_on_its_own(
    on_asyncio: None, dynamodb_engine: Engine, dynamodb_table: str
) -> None:
    proxy = SlowReads(random.Random(1))
    async with (
        proxy.running(dynamodb_engine.endpoint_url),
        DynamoDBAdapter(None, dynamodb_table, endpoint_url=proxy.url, request_timeout=0.1) as store,
    ):
        with pytest.raises(StoreTimeoutError):
            await store.get("value")
