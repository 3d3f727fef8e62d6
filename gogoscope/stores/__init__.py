"""The stores that come with the package: memory, an SQLite file, Redis, and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gogoscope._core.faces import face

if TYPE_CHECKING:
    from gogoscope.stores.memory import MemoryStore
    from gogoscope.stores.postgres.store import PostgresStore
    from gogoscope.stores.redis.store import RedisStore
    from gogoscope.stores.sqlite.store import SQLiteStore

__all__ = ["MemoryStore", "PostgresStore", "RedisStore", "SQLiteStore"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face(
        __name__,
        {
            "gogoscope.stores.memory": ("MemoryStore",),
            "gogoscope.stores.postgres.store": ("PostgresStore",),
            "gogoscope.stores.redis.store": ("RedisStore",),
            "gogoscope.stores.sqlite.store": ("SQLiteStore",),
        },
    )
