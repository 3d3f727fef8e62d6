"""The project's own stores pass the kit that any other backend must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from gogoscope.testing.conformance import OpenStore, StoreConformance
from tests.conformance.places import (
    DynamoDBPlace,
    MemoryPlace,
    PostgresPlace,
    RedisPlace,
    SQLitePlace,
)
from tests.support.postgres_server import PostgresTable


class Shared(StoreConformance):
    """The whole kit, with processes that share the store."""

    capabilities = StoreConformance.capabilities | {"processes"}


@pytest.mark.slow_elsewhere
class TestMemory(StoreConformance):
    works_after_close: ClassVar = True

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return MemoryPlace().open


@pytest.mark.slow_elsewhere
class TestSQLite(Shared):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return SQLitePlace(tmp_path).open

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return SQLitePlace(tmp_path).url


class TestDynamoDB(Shared):
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Leave trio out, on which aioboto3 does not run."""
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def atomic(self, atomic_dynamodb: object) -> None:
        """Skip the test where a stand-in for DynamoDB would lose concurrent writes."""

    @pytest.fixture
    def dynamodb_place(self, common_table_url: str) -> DynamoDBPlace:
        return DynamoDBPlace(common_table_url)

    @pytest.fixture
    def open_store(self, dynamodb_place: DynamoDBPlace) -> OpenStore:
        return dynamodb_place.open

    @pytest.fixture
    def url(self, dynamodb_place: DynamoDBPlace) -> str:
        return dynamodb_place.url


class TestRedis(Shared):
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Leave trio out, on which redis-py does not run."""
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def redis_place(self, redis_engine: str) -> RedisPlace:
        return RedisPlace(redis_engine)

    @pytest.fixture
    def open_store(self, redis_place: RedisPlace) -> OpenStore:
        return redis_place.open

    @pytest.fixture
    def url(self, redis_place: RedisPlace) -> str:
        return redis_place.url


class TestPostgres(Shared):
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Leave trio out, on which psycopg does not run."""
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def postgres_place(self, common_postgres_table: PostgresTable) -> PostgresPlace:
        return PostgresPlace(common_postgres_table)

    @pytest.fixture
    def open_store(self, postgres_place: PostgresPlace) -> OpenStore:
        return postgres_place.open

    @pytest.fixture
    def url(self, postgres_place: PostgresPlace) -> str:
        return postgres_place.url
