"""A busy store starves no lease: renewals, saves and verdicts go out while values are written."""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import Scope, scope
from gogoscope.persistence import is_urgent
from gogoscope.stores.postgres.store import PostgresStore
from gogoscope.stores.redis.store import RedisStore
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from tests.support.dynamodb_faults import FaultyClient, be_silent
from tests.support.engines import DYNAMODB
from tests.support.postgres_proxy import PostgresProxy
from tests.support.postgres_server import POSTGRES, PostgresTable
from tests.support.redis_faults import FaultyRedis
from tests.support.redis_server import REDIS

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]

SLOW = 60.0
PATIENCE = 20.0
"""How long what a lease depends on may take; far less than the writes that fill the pool."""
WRITES = 40
"""How many values are written at once, which is more than any pool has connections."""

Full = AbstractAsyncContextManager[Any]
"""A block inside which nothing that is not urgent is answered."""
OpenBusy = Callable[[], AbstractAsyncContextManager[tuple[Any, Callable[[], Full]]]]
"""Opens a store, and returns what fills its pool as well."""


@pytest.fixture(params=[REDIS, POSTGRES, DYNAMODB])
def open_busy(request: pytest.FixtureRequest, on_asyncio: None) -> OpenBusy:
    open_busy: OpenBusy = request.getfixturevalue(f"{request.param}_busy")
    return open_busy


@asynccontextmanager
async def full(store: Any, settle: Callable[[], object]) -> AsyncIterator[None]:
    """Write values that nobody answers; ``settle`` lets later requests be answered."""
    async with anyio.create_task_group() as group:
        for n in range(WRITES):
            group.start_soon(store.set, f"value{n}", n)
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(0.1)
        settle()
        yield
        group.cancel_scope.cancel()


@pytest.fixture
def redis_busy(redis_url: str) -> OpenBusy:
    @asynccontextmanager
    async def open_busy() -> AsyncIterator[tuple[Any, Callable[[], Full]]]:
        async with RedisStore(redis_url, request_timeout=SLOW) as store:
            faulty = FaultyRedis(store)
            faulty.constant_faults["put"] = be_silent
            yield store, partial(full, store, lambda: None)

    return open_busy


@pytest.fixture
def postgresql_busy(postgres_engine: str, postgres_table: PostgresTable) -> OpenBusy:
    @asynccontextmanager
    async def open_busy() -> AsyncIterator[tuple[Any, Callable[[], Full]]]:
        proxy = PostgresProxy(random.Random(1))
        async with (
            proxy.running(postgres_engine),
            PostgresStore(
                proxy.url(postgres_table.database_url),
                table=postgres_table.name,
                create=True,
                request_timeout=SLOW,
                pool_size=5,
            ) as store,
        ):

            def fill() -> Full:
                proxy.faults.extend(["answers swallowed"] * WRITES)
                return full(store, proxy.faults.clear)

            yield store, fill

    return open_busy


class PooledClient(FaultyClient):
    """A client that tells of five connections, of which four are for what is not urgent."""

    class meta:  # noqa: N801 - the SDK's name
        class config:  # noqa: N801 - likewise
            max_pool_connections = 5


@pytest.fixture
def dynamodb_busy(
    atomic_dynamodb: object, dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> OpenBusy:
    @asynccontextmanager
    async def open_busy() -> AsyncIterator[tuple[Any, Callable[[], Full]]]:
        client = PooledClient(dynamodb_client)
        store = DynamoDBAdapter(client, dynamodb_table, request_timeout=SLOW)

        def fill() -> Full:
            client.faults.extend([be_silent] * WRITES)
            return full(store, client.faults.clear)

        yield store, fill

    return open_busy


@pytest.fixture
def key() -> str:
    return secrets.token_hex(8)


async def test_a_run_is_renewed_while_the_pool_is_full(open_busy: OpenBusy, key: str) -> None:
    async with (
        open_busy() as (store, fill),
        scope(persistence=store) as s,
        s.claim(key, keep=60, lease=30) as run,
        fill(),
    ):
        with anyio.fail_after(PATIENCE):
            assert await run._begun().extend()


async def test_a_run_ends_while_the_pool_is_full(open_busy: OpenBusy, key: str) -> None:
    begun, full, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def run_once(s: Scope) -> None:
        async with s.claim(key, keep=60, lease=30) as run:
            begun.set()
            await full.wait()
            run.complete("value")
        ended.set()

    async with (
        open_busy() as (store, fill),
        scope(persistence=store) as s,
        anyio.create_task_group() as group,
    ):
        group.start_soon(run_once, s)
        await begun.wait()
        async with fill():
            full.set()
            with anyio.fail_after(PATIENCE):
                await ended.wait()
        assert (await store.runs())[key].state == "done"


async def test_a_job_is_saved_while_the_pool_is_full(open_busy: OpenBusy, key: str) -> None:
    async with (
        open_busy() as (store, fill),
        scope(persistence=store) as s,
        s.job(key, state={"at": 0}, lease=30) as job,
    ):
        async with fill():
            with anyio.fail_after(PATIENCE):
                await job.save({"at": 1})
        assert job.state == {"at": 1}


async def test_a_lock_is_renewed_and_released_while_the_pool_is_full(
    open_busy: OpenBusy, key: str
) -> None:
    async with open_busy() as (store, fill):
        handle = await store.acquire(key, 30)
        async with fill():
            with anyio.fail_after(PATIENCE):
                assert await handle.extend()
                assert await handle.release()


async def test_what_a_lease_depends_on_goes_first_in_the_thread_of_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[bool] = []
    async with SQLiteStore(tmp_path / "store.db") as store, scope(persistence=store) as s:
        use, go_on = store._file._use, threading.Event()

        def noted(work: Any) -> Any:
            order.append(is_urgent())
            return use(work)

        async with s.job("k", state={"at": 0}, lease=30) as job, anyio.create_task_group() as group:
            group.start_soon(store._file.run, lambda connection: go_on.wait())
            await anyio.wait_all_tasks_blocked()
            monkeypatch.setattr(store._file, "_use", noted)
            for n in range(WRITES):
                group.start_soon(store.set, f"value{n}", n)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(job.save, {"at": 1})
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        assert order[: WRITES + 1] == [True] + [False] * WRITES
