"""A place of a rate limit in PostgreSQL: one statement, the server's clock, and its own echo."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gogoscope import CorruptRecordError
from gogoscope.persistence.records.rate_limits import RecordRateLimits
from gogoscope.stores.postgres.store import PostgresStore
from gogoscope.testing.conformance import ManualClock
from tests.support.postgres_proxy import PostgresProxy
from tests.support.postgres_server import PostgresTable

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio")]

COST = 100_000
BURST = 3 * COST
SECOND = 1_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def opened(url: str, table: PostgresTable, **options: Any) -> PostgresStore:
    return PostgresStore(url, table=table.name, create=True, request_timeout=1, **options)


async def test_a_place_is_one_statement_however_many_want_one(
    postgres_engine: str, postgres_table: PostgresTable
) -> None:
    proxy = PostgresProxy(random.Random(1))
    async with (
        proxy.running(postgres_engine),
        opened(proxy.url(postgres_table.database_url), postgres_table) as store,
        opened(postgres_table.database_url, postgres_table) as other,
    ):
        await store.reserve_rate("limit", COST, BURST, SECOND)
        proxy.requests.clear()
        for _ in range(5):
            await other.reserve_rate("limit", COST, BURST, 10 * SECOND)
            assert (await store.reserve_rate("limit", COST, BURST, 10 * SECOND)).granted
        assert not (await store.reserve_rate("limit", COST, BURST, 0)).granted
        assert len(proxy.requests) == 6


@pytest.mark.parametrize("fault", ["answers dropped after the write", "requests dropped"])
async def test_a_reservation_knows_its_own_echo(
    postgres_engine: str, postgres_table: PostgresTable, fault: str
) -> None:
    proxy = PostgresProxy(random.Random(1))
    async with (
        proxy.running(postgres_engine),
        opened(proxy.url(postgres_table.database_url), postgres_table) as store,
    ):
        await store.reserve_rate("another", COST, BURST, 0)
        proxy.faults.append(fault)
        reply = await store.reserve_rate("limit", 2 * SECOND, BURST, 10 * SECOND)
        assert reply.granted
        read = await store.read_rate("limit")
        assert read is not None
        assert read.tat_us == reply.tat_us
        assert read.tat_us - read.now_us < 3 * SECOND


async def test_a_place_is_kept_as_any_other_record(postgres_table: PostgresTable) -> None:
    clock = ManualClock()
    async with opened(postgres_table.database_url, postgres_table, clock=clock) as store:
        of_records = RecordRateLimits.reserve_rate
        for n in range(4):
            reserve = store.reserve_rate if n % 2 else of_records.__get__(store)
            reply = await reserve("limit", COST, BURST, SECOND)
            assert reply.granted
            assert reply.tat_us == int(clock.now * 1_000_000) + (n + 1) * COST
        await store.pause_rate("limit", 5 * SECOND, BURST)
        paused = await store.reserve_rate("limit", COST, BURST, 0)
        assert paused.until_us == int(clock.now * 1_000_000) + 5 * SECOND
        waiting = await store.reserve_rate("limit", COST, BURST, 60 * SECOND)
        assert (await store.rate_limits())["limit"].paused_for == 5
        assert not await store.return_rate("limit", waiting.tat_us, COST)
        assert not (await store.reserve_rate("limit", 10 * BURST, BURST, 0)).granted


@pytest.mark.parametrize("content", ["no JSON", '{"tat_us":"soon"}', "[]"])
async def test_what_is_no_limit_is_corrupt(postgres_table: PostgresTable, content: str) -> None:
    async with opened(postgres_table.database_url, postgres_table) as store:
        await store.reserve_rate("limit", COST, BURST, 0)
        postgres_table.execute(
            f"UPDATE {postgres_table.name} SET content = '{content}' WHERE kind = 'rate'"
        )
        with pytest.raises(CorruptRecordError, match="limit"):
            await store.reserve_rate("limit", COST, BURST, 0)
