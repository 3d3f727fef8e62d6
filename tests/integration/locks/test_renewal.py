"""Other traffic cannot starve the renewal of a lock."""

from __future__ import annotations

import random
import threading
import time
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest

from gogoscope import StoreTimeoutError, scope
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.sessions import POOL_SIZE
from tests.support.engines import Engine
from tests.support.faulty_proxy import FaultyProxy

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

        async with scope(persistence=store) as s, s.lock("job", ttl=6) as locked:
            for _ in range(6 * POOL_SIZE):
                group.start_soon(read)
            before = locked.expires_at
            with anyio.fail_after(20):
                while locked.expires_at < before + 1:
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


async def test_on_sqlite_a_queue_of_other_operations_loses_no_lock(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        done, renewed = 0, False

        async def write(number: int) -> None:
            nonlocal done
            while done < 2000 or not renewed:
                await store.set(f"key {number}", done)
                done += 1

        async with (
            scope(persistence=store) as s,
            s.lock("job", ttl=6) as locked,
            anyio.create_task_group() as group,
        ):
            before = locked.expires_at
            for number in range(200):
                group.start_soon(write, number)
            while done < 2000 or not renewed:
                await anyio.sleep(0.05)
                locked.ensure()
                renewed = locked.expires_at > before + 1


WHO: ContextVar[str] = ContextVar("who", default="the test")


class StoppedClock:
    """Holds up the thread of a SQLite store while it is stopped; notes who looks at it there."""

    def __init__(self) -> None:
        self.lookers: list[str] = []
        self._goes = threading.Event()
        self._goes.set()

    def wall(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            self.lookers.append(WHO.get())
            assert self._goes.wait(30)
        return time.time()

    def elapsed(self) -> float:
        return time.monotonic()

    def stop(self) -> None:
        self._goes.clear()
        self.lookers.clear()

    async def until_looked_at(self) -> None:
        while not self.lookers:
            await anyio.sleep(0.001)

    def go_on(self) -> None:
        self._goes.set()


@pytest.mark.parametrize("read", ["get_many", "keys"])
async def test_on_sqlite_a_big_read_lets_others_in_between(tmp_path: Path, read: str) -> None:
    clock = StoppedClock()
    async with SQLiteStore(tmp_path / "store.db", clock=clock) as store:
        keys = [f"key {number}" for number in range(3500)]
        await store.set_many(dict.fromkeys(keys, 1), ttl=3600)

        async def read_all() -> None:
            WHO.set("all")
            found = await (store.keys() if read == "keys" else store.get_many(keys))
            assert sorted(found) == sorted(keys)

        async def read_one() -> None:
            WHO.set("one")
            assert await store.get("key 7") == 1

        clock.stop()
        async with anyio.create_task_group() as group:
            group.start_soon(read_all)
            await clock.until_looked_at()
            group.start_soon(read_one)
            await anyio.wait_all_tasks_blocked()
            clock.go_on()
    assert clock.lookers == ["all", "one", "all", "all", "all"]


async def test_on_sqlite_a_lease_does_not_wait_behind_other_operations(tmp_path: Path) -> None:
    clock = StoppedClock()
    async with SQLiteStore(tmp_path / "store.db", clock=clock) as store:
        handle = await store.acquire("job", 30)
        assert handle is not None
        clock.lookers.clear()

        async def write(number: int) -> None:
            WHO.set("write")
            await store.set(f"key {number}", number)

        async def release() -> None:
            WHO.set("release")
            assert await handle.release()

        clock.stop()
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(write, number)
            await clock.until_looked_at()
            group.start_soon(release)
            await anyio.wait_all_tasks_blocked()
            clock.go_on()
    assert clock.lookers == ["write", "release", *["write"] * 4]


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
