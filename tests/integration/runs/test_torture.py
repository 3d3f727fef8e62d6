"""Runs that transactions complete, under everything that may happen to them at once.

Workers of three processes claim the same keys. Each makes its part of a transaction, and then does
one of many things: it sends it once or twice, before or long after the end of its block, or never;
it raises before or after; others take its run over. In the end each key that is done was written
exactly once, by the very attempt whose result is kept, and no other key was written.

``GOGOSCOPE_TORTURE_SECONDS`` makes it longer.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol

import anyio
import psycopg
import pytest
from attrs import define, field

from gogoscope import GogoscopeError, scope
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores import PostgresStore
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from tests.support.postgres_server import PostgresTable

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SECONDS = float(os.environ.get("GOGOSCOPE_TORTURE_SECONDS", "5"))
PROCESSES = 3
WORKERS = 12
KEYS = 6
WAYS = (
    *("plain",) * 3,
    *("twice", "raises before", "raises after", "never", "late", "taken over", "renewed between"),
)


class LostAnswerError(Exception):
    """The answer to a transaction was lost, or it was cancelled."""


class Business(Protocol):
    """What the callers write themselves: which attempts wrote each key."""

    stores: list[Any]
    late: list[Callable[[], Awaitable[None]]]

    async def transact(self, run: Any, key: str, attempt: str, way: str) -> None:
        """Write, and complete a run, in one transaction."""
        ...

    async def attempts(self, key: str) -> list[str]:
        """Return the attempts that wrote a key."""
        ...


class OnDynamoDB:
    def __init__(self, client: Any, table: str) -> None:
        self.stores = [DynamoDBAdapter(client, table, request_timeout=5) for _ in range(PROCESSES)]
        self.client = client
        self.table = table
        self.late: list[Callable[[], Awaitable[None]]] = []

    async def transact(self, run: Any, key: str, attempt: str, way: str) -> None:
        item = run.transact_item(attempt)
        write = {
            "Update": {
                "TableName": self.table,
                "Key": self._key(key),
                "UpdateExpression": "SET attempts = list_append(if_not_exists(attempts, :n), :a)",
                "ExpressionAttributeValues": {":n": {"L": []}, ":a": {"L": [{"S": attempt}]}},
            }
        }

        async def send() -> None:
            try:
                await self.client.transact_write_items(TransactItems=[write, item])
            except self.client.exceptions.ClientError as error:
                raise LostAnswerError from error

        if way == "late":
            self.late.append(send)
        elif way != "never":
            await send()
        if way == "twice":
            with suppress(LostAnswerError):
                await send()

    async def attempts(self, key: str) -> list[str]:
        answer = await self.client.get_item(
            TableName=self.table, Key=self._key(key), ConsistentRead=True
        )
        return [one["S"] for one in answer.get("Item", {}).get("attempts", {}).get("L", [])]

    def _key(self, key: str) -> Any:
        return {"pk": {"S": f"BUSINESS#{key}"}, "sk": {"S": "written"}}


class OnPostgres:
    def __init__(self, stores: list[PostgresStore], url: str, table: str) -> None:
        self.stores = stores
        self.url = url
        self.table = table
        self.late: list[Callable[[], Awaitable[None]]] = []  # the end of a connection undoes it

    async def transact(self, run: Any, key: str, attempt: str, way: str) -> None:
        connection = await psycopg.AsyncConnection.connect(self.url)
        try:
            await connection.execute(
                f"INSERT INTO {self.table} VALUES (%s, %s)".encode(), [key, attempt]
            )
            await run.complete(attempt, connection=connection)
            if way not in ("never", "late"):
                await connection.commit()
            if way == "twice":
                with suppress(GogoscopeError):
                    await run.complete("again", connection=connection)
                    pytest.fail("it was completed twice")
        except psycopg.Error as error:
            raise LostAnswerError from error
        finally:
            await connection.close()

    async def attempts(self, key: str) -> list[str]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            found = await connection.execute(
                f"SELECT attempt FROM {self.table} WHERE key = %s".encode(), [key]
            )
            return [attempt for (attempt,) in await found.fetchall()]


async def take_over(store: Any, key: str) -> None:
    """Take over a run, as one does that has watched it for a whole lease, and give it up."""
    record = await store.read_run(key)
    if record is not None and record.state == "running":
        nonce = secrets.token_hex(8)
        claim = LockClaim(nonce=nonce, owner="thief", lease_ms=5_000)
        if (await store.claim_run(key, claim, seen=record.lease)).granted:
            await store.abandon_run(key, nonce)


async def renew(store: Any, key: str) -> None:
    record = await store.read_run(key)
    if record is not None and record.lease.nonce is not None:
        await store.renew_run(key, record.lease.nonce, record.lease.version, 5_000, 0)


@define
class Torture:
    """Rounds of workers, each with keys of its own."""

    business: Business
    chance: random.Random
    gone: Counter[str] = field(factory=Counter)
    seen: dict[str, Any] = field(factory=dict)

    async def run(self) -> None:
        """Go round until the time is over; each round is judged at its end."""
        ends_at = anyio.current_time() + SECONDS
        number = 0
        while anyio.current_time() < ends_at:
            number += 1
            keys = [f"{number}:{n}" for n in range(KEYS)]
            async with anyio.create_task_group() as group:
                for worker in range(WORKERS):
                    group.start_soon(self._work, worker, keys)
            for send in self.business.late:  # nothing of it happens any more
                with suppress(LostAnswerError):
                    await send()
            self.business.late.clear()
            for key in keys:
                await self._judge(key)

    async def _work(self, worker: int, keys: list[str]) -> None:
        store = self.business.stores[worker % PROCESSES]
        for n in range(4):
            with suppress(ValueError, GogoscopeError, LostAnswerError):
                await self._attempt(store, keys[(worker + n) % KEYS])

    async def _attempt(self, store: Any, key: str) -> None:
        attempt, way = secrets.token_hex(6), self.chance.choice(WAYS)
        async with scope(persistence=store) as s, s.claim(key, 3_600, lease=5) as run:
            if run.done:
                self.gone["done before"] += 1
                assert self.seen.setdefault(key, run.result) == run.result
                return
            self.gone[way] += 1
            if way == "raises before":
                raise ValueError(way)
            if way == "taken over":
                await take_over(store, key)
            elif way == "renewed between":
                await renew(store, key)
            await self.business.transact(run, key, attempt, way)
            if way == "raises after":
                raise ValueError(way)

    async def _judge(self, key: str) -> None:
        store = self.business.stores[0]
        record = await store.read_run(key)
        attempts = await self.business.attempts(key)
        if record is None or record.state != "done":
            assert attempts == [], key
        else:
            assert attempts == [store.run_value(key, record.outcome)], key
            assert self.seen.get(key, attempts[0]) == attempts[0]


async def torture(business: Business) -> None:
    seed = secrets.randbits(32)
    tortured = Torture(business, random.Random(seed))
    try:
        await tortured.run()
    finally:
        print(f"seed {seed}: {dict(tortured.gone)}")
    assert tortured.gone["plain"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.usefixtures("on_asyncio", "atomic_dynamodb")
async def test_each_key_is_written_once_on_dynamodb(
    dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> None:
    await torture(OnDynamoDB(dynamodb_client, dynamodb_table))


@pytest.mark.usefixtures("on_asyncio")
async def test_each_key_is_written_once_on_postgresql(postgres_table: PostgresTable) -> None:
    name = f"{postgres_table.name}_business"
    postgres_table.execute(f"CREATE TABLE {name} (key text, attempt text)")
    try:
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(
                    PostgresStore(
                        postgres_table.database_url, table=postgres_table.name, create=True
                    )
                )
                for _ in range(PROCESSES)
            ]
            await torture(OnPostgres(stores, postgres_table.database_url, name))
    finally:
        postgres_table.execute(f"DROP TABLE {name}")
