"""What a store on a SQLite file adds to the bare SQL in a worker thread.

The bare SQL is what one writes by hand: for a lock that is taken and released, two transactions
that read its row and write it anew; for ``set`` and ``get`` a statement each, and JSON. Each row
alternates both in one run and shows the medians, their ratio, and the most that it may be.

The event loop and the thread take turns. Which processor the other one wakes up on, the operating
system decides anew each time. Where that one is asleep, it takes longer than the whole operation.
So the limits are for both sides on one processor; the second table leaves it to chance. Run it from
the repository:

    python -m tests.benchmarks.bench_sqlite [--rounds 300] [--check]

``--check`` fails if a ratio is over its limit.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from gogoscope.stores.sqlite.identity import OLD_NS
from gogoscope.stores.sqlite.store import SQLiteStore
from tests.benchmarks.bench_stores import HEADS, KEY, SMALL_DICT, Pair, Table

ONE_PROCESSOR = "on one processor"
ANY_PROCESSOR = "on any processor"


class BareSQLite:
    """The SQL of the store's operations, each a visit to a worker thread."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False
        )
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            """CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, purge_at INTEGER,
            content TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID""",
        ):
            self._connection.execute(statement)
        self._threads = anyio.CapacityLimiter(1)
        # As long as a lock's record, and never twice the same: SQLite leaves out a write that
        # changes nothing.
        self._locks = (f"{number:0250}" for number in itertools.count())
        self._write("cache", json.dumps(SMALL_DICT))

    async def locked(self) -> None:
        await self._visit(self._change, "lock", next(self._locks))
        await self._visit(self._change, "lock", next(self._locks))

    async def set(self) -> None:
        await self._visit(self._write, "cache", json.dumps(SMALL_DICT))

    async def get(self) -> None:
        content, _ = await self._visit(self._read, "cache")
        assert json.loads(content) == SMALL_DICT

    def close(self) -> None:
        self._connection.close()

    async def _visit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    def _change(self, kind: str, content: str) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._read(kind)
        self._write(kind, content)
        self._connection.execute("COMMIT")

    def _read(self, kind: str) -> Any:
        return self._connection.execute(
            "SELECT content, purge_at FROM records WHERE kind = ? AND key = ? "
            "AND (purge_at IS NULL OR purge_at > ?)",
            (kind, KEY, int(time.time() * 1000)),
        ).fetchone()

    def _write(self, kind: str, content: str) -> None:
        self._connection.execute(
            "INSERT INTO records (kind, key, purge_at, content) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET purge_at = excluded.purge_at, content = excluded.content",
            (kind, KEY, int(time.time() * 1000) + 3_600_000, content),
        )


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this thread, and those that it starts meanwhile, on one processor."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(all_of_them)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


async def compare(table: Table, where: str) -> None:
    """Compare operations on a file with the statements that they are made of."""
    table.head(f"SQLite, {where}, against the bare SQL in a worker thread", HEADS)
    limits = (1.2, 1.15, 1.15) if where == ONE_PROCESSOR else (None, None, None)
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder, "store.db")) as store:
            bare = BareSQLite(Path(folder, "bare.db"))

            async def acquire_and_release() -> None:
                handle = await store.acquire("lock", 30)
                assert handle is not None
                assert await handle.release()

            async def get() -> None:
                assert await store.get(KEY) == SMALL_DICT

            await store.set(KEY, SMALL_DICT, 3600)
            await anyio.sleep(OLD_NS / 1e9)  # until the time of the folder is old enough
            await table.compare(
                [
                    Pair("acquire + release", acquire_and_release, bare.locked, limits[0], 20),
                    Pair("set", lambda: store.set(KEY, SMALL_DICT, 3600), bare.set, limits[1], 5),
                    Pair("get", get, bare.get, limits[2], 5),
                ]
            )
            bare.close()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table = Table(options.rounds)
    # Each in an event loop of its own, whose threads are new.
    if sys.platform == "linux":
        with one_processor():
            anyio.run(functools.partial(compare, table, ONE_PROCESSOR))
    else:
        print("only Linux keeps threads on one processor, so nothing has a limit here")
    anyio.run(functools.partial(compare, table, ANY_PROCESSOR))
    sys.exit(options.check and not table.fine)


if __name__ == "__main__":
    main()
