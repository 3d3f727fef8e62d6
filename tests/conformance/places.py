"""Where the project's own stores keep the data of a conformance test, and how they are opened."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from gogoscope._core.clock import Clock, current_clock
from gogoscope.persistence import PersistenceURL
from gogoscope.stores.memory import MemoryStore
from gogoscope.stores.postgres.store import PostgresStore
from gogoscope.stores.redis.store import RedisStore
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.postgres_server import PostgresTable


class Place(Protocol):
    """Where data lives, and how a store of it is opened."""

    def open(
        self, key_prefix: str = "", clock: Clock = current_clock
    ) -> AbstractAsyncContextManager[Any]: ...


class MemoryPlace:
    def __init__(self) -> None:
        self._store: MemoryStore | None = None

    @asynccontextmanager
    async def open(self, key_prefix: str = "", clock: Clock = current_clock) -> AsyncIterator[Any]:
        if self._store is None:
            self._store = MemoryStore(clock=clock)
        yield self._store.with_prefix(key_prefix)


class SQLitePlace:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.db"
        self.url = f"sqlite:///{self.path}"

    def open(
        self, key_prefix: str = "", clock: Clock = current_clock
    ) -> AbstractAsyncContextManager[Any]:
        return SQLiteStore(self.path, key_prefix=key_prefix, clock=clock)


class RedisPlace:
    """A database of Redis, and in it a prefix of the place's own."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._own_prefix = f"{uuid.uuid4().hex}:"
        self.url = f"{engine}?key_prefix={self._own_prefix}"

    def open(
        self, key_prefix: str = "", clock: Clock = current_clock
    ) -> AbstractAsyncContextManager[Any]:
        return RedisStore(
            self._engine,
            key_prefix=self._own_prefix + key_prefix,
            max_clock_skew=0,
            clock=None if clock is current_clock else clock,
        )


class DynamoDBPlace:
    """A table, and in it a prefix of the place's own."""

    def __init__(self, url: str) -> None:
        parsed = PersistenceURL.parse(url)
        self.table_name = parsed.location
        self._region = parsed.options.get("region")
        self._endpoint_url = parsed.options.get("endpoint_url")
        self._own_prefix = f"{uuid.uuid4().hex}:"
        self.url = f"{url}{'&' if parsed.options else '?'}key_prefix={self._own_prefix}"

    def open(
        self, key_prefix: str = "", clock: Clock = current_clock
    ) -> AbstractAsyncContextManager[Any]:
        return DynamoDBAdapter(
            None,
            self.table_name,
            key_prefix=self._own_prefix + key_prefix,
            max_clock_skew=0,
            clock=clock,
            consistent_reads=True,
            region=self._region,
            endpoint_url=self._endpoint_url,
        )


class PostgresPlace:
    """A table, and in it a prefix of the place's own."""

    def __init__(self, table: PostgresTable) -> None:
        self._table = table
        self._own_prefix = f"{uuid.uuid4().hex}:"
        self.url = f"{table.url}&key_prefix={self._own_prefix}"

    def open(
        self, key_prefix: str = "", clock: Clock = current_clock
    ) -> AbstractAsyncContextManager[Any]:
        return PostgresStore(
            self._table.database_url,
            table=self._table.name,
            key_prefix=self._own_prefix + key_prefix,
            max_clock_skew=0,
            clock=None if clock is current_clock else clock,
            create=True,
        )
