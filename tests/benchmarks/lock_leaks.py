"""What a process keeps after very many locks: it should be nothing.

    python -m tests.benchmarks.lock_leaks [--sqlite 100000] [--dynamodb 10000]

prints by how much memory, open files and sockets, and tasks grew.
"""

from __future__ import annotations

import argparse
import gc
import os
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import psutil
from attrs import frozen

from gogoscope import scope
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine

KEYS = 7


@frozen
class Growth:
    """By how much a process grew: bytes of memory, open files and sockets, tasks."""

    memory: int
    files: int
    tasks: int


async def take_and_free(store: Any, times: int) -> None:
    """Take a lock and free it again, many times in one scope; each tenth is waited for."""
    async with scope(persistence=store) as s:
        for number in range(times):
            handle = await s.acquire_lock(f"job {number % KEYS}", 30)
            assert handle is not None
            if number % 10 == 0:
                waiting = s.task(s.acquire_lock, f"job {number % KEYS}", 30, 5)
                await anyio.sleep(0)
                await handle.release()
                handle = (await waiting).unwrap()
                assert handle is not None
            await handle.release()


async def growth(store: Any, times: int) -> Growth:
    """Tell by how much the process grows when locks are taken and freed so many times."""
    process = psutil.Process()
    await take_and_free(store, max(100, times // 100))
    gc.collect()
    tracemalloc.start()
    try:
        memory, _ = tracemalloc.get_traced_memory()
        files, tasks = process.num_fds(), len(anyio.get_running_tasks())
        await take_and_free(store, times)
        gc.collect()
        return Growth(
            tracemalloc.get_traced_memory()[0] - memory,
            process.num_fds() - files,
            len(anyio.get_running_tasks()) - tasks,
        )
    finally:
        tracemalloc.stop()


async def main(on_sqlite: int, on_dynamodb: int, endpoint_url: str) -> None:
    """Print the growth on both stores."""
    with TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder) / "store.db") as store:
            print(f"SQLite, {on_sqlite} times:", await growth(store, on_sqlite), flush=True)
    table = DynamoDBAdapter(None, new_table_name(), endpoint_url=endpoint_url, create=True)
    async with table:
        print(f"DynamoDB, {on_dynamodb} times:", await growth(table, on_dynamodb), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sqlite", type=int, default=100_000)
    parser.add_argument("--dynamodb", type=int, default=10_000)
    options = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    with running_engine() as engine:
        anyio.run(main, options.sqlite, options.dynamodb, engine.endpoint_url)
