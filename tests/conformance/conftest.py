"""A place on each of the project's own stores, and the table that those on DynamoDB share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest

from gogoscope.persistence import open_persistence
from gogoscope_dynamodb.client import open_client
from tests.conformance.places import (
    DynamoDBPlace,
    MemoryPlace,
    Place,
    PostgresPlace,
    RedisPlace,
    SQLitePlace,
)
from tests.support.engines import DYNAMODB, Engine, new_table_name
from tests.support.postgres_server import POSTGRES
from tests.support.redis_server import REDIS

ON_ASYNCIO_ONLY = ("dynamodb", "postgresql", "redis")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no user can run: the clients of some stores need asyncio."""
    impossible = {item for item in items if _needs_asyncio_on_trio(item)}
    if impossible:
        config.hook.pytest_deselected(items=list(impossible))
        items[:] = [item for item in items if item not in impossible]


def _needs_asyncio_on_trio(item: pytest.Item) -> bool:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("anyio_backend") == ("trio", {}) and params.get("place") in ON_ASYNCIO_ONLY


@pytest.fixture(scope="session")
def common_table_url(dynamodb_engine: Engine) -> Iterator[str]:
    """Return the URL of the table in which every place on DynamoDB has a prefix of its own."""
    name = new_table_name()
    url = f"dynamodb://{name}?{urlencode({'endpoint_url': dynamodb_engine.endpoint_url})}"

    async def make() -> None:
        async with open_persistence(f"{url}&create=true"):
            pass

    async def drop() -> None:
        async with open_client(endpoint_url=dynamodb_engine.endpoint_url) as opened:
            client: Any = opened
            await client.delete_table(TableName=name)

    anyio.run(make)
    yield url
    if dynamodb_engine.kind == "real":
        anyio.run(drop)


@pytest.fixture(params=["memory", "sqlite", DYNAMODB, POSTGRES, REDIS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return a place of the test's own, for tests of what works over any store."""
    if request.param == "memory":
        return MemoryPlace()
    if request.param == "sqlite":
        return SQLitePlace(tmp_path)
    if request.param == "postgresql":
        return PostgresPlace(request.getfixturevalue("common_postgres_table"))
    if request.param == "redis":
        return RedisPlace(request.getfixturevalue("redis_engine"))
    return DynamoDBPlace(request.getfixturevalue("common_table_url"))
