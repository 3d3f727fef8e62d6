"""The stores that come with the package: in memory, and in an SQLite file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gogoscope._core.faces import face

if TYPE_CHECKING:
    from gogoscope.stores.memory import MemoryStore
    from gogoscope.stores.sqlite.store import SQLiteStore

__all__ = ["MemoryStore", "SQLiteStore"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face(
        __name__,
        {
            "gogoscope.stores.memory": ("MemoryStore",),
            "gogoscope.stores.sqlite.store": ("SQLiteStore",),
        },
    )
