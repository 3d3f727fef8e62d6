"""Places for entries pass the kit of their own, and a store over one that of any other store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from random import Random
from typing import Any, ClassVar

import pytest

from gogoscope._core.clock import Clock, current_clock
from gogoscope.persistence import (
    CompareAndSwap,
    CompareAndSwapRecords,
    Entry,
    RecordStore,
)
from gogoscope.stores.postgres.store import PostgresStore
from gogoscope.testing.conformance import (
    CompareAndSwapConformance,
    OpenLossyPlace,
    OpenPlace,
    OpenStore,
    StoreConformance,
)
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from tests.conformance.places import DynamoDBPlace, Place, PostgresPlace, RedisPlace
from tests.support.dynamodb_faults import FaultyClient, Perform, losing
from tests.support.entries import Below, DictPlace, LossyPlace
from tests.support.postgres_proxy import PostgresProxy
from tests.support.postgres_server import PostgresTable
from tests.support.redis_faults import FaultyRedis


class TestDictPlace(CompareAndSwapConformance):
    works_after_close: ClassVar = True

    @pytest.fixture
    def entries(self) -> dict[Any, Entry]:
        return {}

    @pytest.fixture
    def open_place(self, entries: dict[Any, Entry]) -> OpenPlace:
        return lambda: nullcontext(_on(entries, DictPlace()))

    @pytest.fixture
    def open_lossy_place(self, entries: dict[Any, Entry]) -> OpenLossyPlace:
        return lambda lose: nullcontext(_on(entries, LossyPlace(lose)))


def _on(entries: dict[Any, Entry], place: DictPlace) -> DictPlace:
    place.entries = entries
    return place


class EntriesStore(RecordStore):
    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


class OnAServer(CompareAndSwapConformance):
    """The place of a store that is opened; its client runs on asyncio only."""

    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def server_place(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def own_prefix(self) -> str:
        return f"{uuid.uuid4().hex}:"

    @pytest.fixture
    def open_place(self, server_place: Place, own_prefix: str) -> OpenPlace:
        @asynccontextmanager
        async def open_place() -> AsyncIterator[CompareAndSwap]:
            async with server_place.open() as store:
                yield Below(store._records._place, own_prefix)

        return open_place


class TestRedisEntries(OnAServer):
    tells: ClassVar = True

    @pytest.fixture
    def server_place(self, redis_engine: str) -> RedisPlace:
        return RedisPlace(redis_engine)

    @pytest.fixture
    def open_lossy_place(self, server_place: RedisPlace, own_prefix: str) -> OpenLossyPlace:
        @asynccontextmanager
        async def open_place(lose: Callable[[], bool]) -> AsyncIterator[CompareAndSwap]:
            async def lose_some(perform: Perform) -> Any:
                answer = await perform()
                if lose():
                    raise ConnectionResetError("the answer was lost")
                return answer

            async with server_place.open() as store:
                FaultyRedis(store).constant_faults["swap"] = lose_some
                yield Below(store._records._place, own_prefix)

        return open_place


class TestPostgresEntries(OnAServer):
    tells: ClassVar = True

    @pytest.fixture
    def server_place(self, common_postgres_table: PostgresTable) -> PostgresPlace:
        return PostgresPlace(common_postgres_table)

    @pytest.fixture
    def open_lossy_place(
        self, common_postgres_table: PostgresTable, own_prefix: str
    ) -> OpenLossyPlace:
        table = common_postgres_table

        @asynccontextmanager
        async def open_place(lose: Callable[[], bool]) -> AsyncIterator[CompareAndSwap]:
            proxy = LossyProxy(lose)
            async with (
                proxy.running(table.database_url),
                PostgresStore(
                    proxy.url(table.database_url), table=table.name, create=True
                ) as store,
            ):
                records: Any = store._records
                yield Below(records._place, own_prefix)

        return open_place


class LossyProxy(PostgresProxy):
    """Breaks the connection in the place of some answers to changes."""

    def __init__(self, lose: Callable[[], bool]) -> None:
        super().__init__(Random(1))
        self._lose = lose

    def _fault(self) -> str | None:
        is_change = b"RETURNING" in self.requests[-1]
        return "answers dropped after the write" if is_change and self._lose() else None


class TestDynamoDBEntries(OnAServer):
    @pytest.fixture
    def server_place(self, atomic_dynamodb: object, common_table_url: str) -> DynamoDBPlace:
        return DynamoDBPlace(common_table_url)

    @pytest.fixture
    def open_lossy_place(
        self, server_place: DynamoDBPlace, dynamodb_client: DynamoDBClient, own_prefix: str
    ) -> OpenLossyPlace:
        @asynccontextmanager
        async def open_place(lose: Callable[[], bool]) -> AsyncIterator[CompareAndSwap]:
            client = FaultyClient(dynamodb_client)
            client.constant_faults["put_item"] = losing(lose)
            store: Any = DynamoDBAdapter(client, server_place.table_name)
            yield Below(store._records._place, own_prefix)

        return open_place


@pytest.mark.slow
class TestEntries(StoreConformance):
    works_after_close: ClassVar = True

    @pytest.fixture
    def open_store(self) -> OpenStore:
        places: list[DictPlace] = []

        @asynccontextmanager
        async def open_store(
            key_prefix: str = "", clock: Clock = current_clock
        ) -> AsyncIterator[Any]:
            if not places:
                places.append(DictPlace(clock, page=1000))
            yield EntriesStore(CompareAndSwapRecords(places[0]), key_prefix=key_prefix)

        return open_store
