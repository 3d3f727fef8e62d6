"""What is a part of its caller's transaction passes the kit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from gogoscope.testing.conformance import (
    JoinsConnectionsConformance,
    OpenStore,
    TransactItemsConformance,
)
from gogoscope.testing.conformance.base import ManualClock
from gogoscope.testing.conformance.transactions import Begin, Send
from gogoscope_dynamodb.client import open_client
from tests.conformance.places import DynamoDBPlace, PostgresPlace
from tests.support.engines import Engine
from tests.support.postgres_server import PostgresTable
from tests.unit.jobs.transacting_store import TransactingStore


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.usefixtures("atomic_dynamodb")
class TestDynamoDB(TransactItemsConformance):
    @pytest.fixture
    def open_store(self, common_table_url: str) -> OpenStore:
        return DynamoDBPlace(common_table_url).open

    @pytest.fixture
    async def send(self, dynamodb_engine: Engine) -> AsyncIterator[Send]:
        async with open_client(endpoint_url=dynamodb_engine.endpoint_url) as opened:
            client: Any = opened

            async def send(items: list[dict[str, Any]]) -> bool:
                try:
                    await client.transact_write_items(TransactItems=items)
                except client.exceptions.TransactionCanceledException:
                    return False
                return True

            yield send


class TestPostgres(JoinsConnectionsConformance):
    @pytest.fixture
    def open_store(self, common_postgres_table: PostgresTable) -> OpenStore:
        return PostgresPlace(common_postgres_table).open

    @pytest.fixture
    def begin(self, common_postgres_table: PostgresTable) -> Begin:
        @asynccontextmanager
        async def begin() -> AsyncIterator[Any]:
            url = common_postgres_table.database_url
            async with (
                await psycopg.AsyncConnection.connect(url) as connection,
                connection.transaction(),
            ):
                yield connection

        return begin


class TestMemory(TransactItemsConformance):
    """Parts in memory, as unit tests have them: ``send`` carries out all or none."""

    @pytest.fixture
    def store(self, clock: ManualClock) -> TransactingStore:
        return TransactingStore(clock=clock)

    @pytest.fixture
    def send(self, store: TransactingStore) -> Send:
        return store.transact
