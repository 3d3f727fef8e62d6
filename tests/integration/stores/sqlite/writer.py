"""A process that writes to a SQLite store: ``sqlite_writer.py PATH SECONDS TASKS NAME [DIARY]``.

Its tasks count failures of shared circuits, set values of their own and take shared locks, until
the time is over. It prints what it was told to be done, as JSON; with a diary it also writes each
value's key there as soon as the store has acknowledged it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from typing import Any

import anyio

from gogoscope.stores.sqlite.store import SQLiteStore

CIRCUITS = 5


async def main(path: str, seconds: str, tasks: str, name: str, *diaries: str) -> None:
    told: Counter[str] = Counter()
    errors: list[str] = []
    longest = 0.0
    pages = os.open(diaries[0], os.O_WRONLY | os.O_APPEND) if diaries else None

    async def write(store: Any, task: int) -> None:
        nonlocal longest
        number = 0
        while time.time() < end:
            begin = time.monotonic()
            try:
                await store.record_failure(f"c{task % CIRCUITS}", 10**9)
                told[f"c{task % CIRCUITS}"] += 1
                await store.set(f"{name}:{task}:{number}", number)
                told["values"] += 1
                if pages is not None:
                    os.write(pages, f"{name}:{task}:{number}\n".encode())
                if (handle := await store.acquire(f"lock:{task}", 60)) is not None:
                    told["locks"] += 1
                    await handle.release()
            except Exception as error:
                errors.append(repr(error))
            longest = max(longest, time.monotonic() - begin)
            number += 1

    async with SQLiteStore(path) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.time() + float(seconds)
        async with anyio.create_task_group() as group:
            for task in range(int(tasks)):
                group.start_soon(write, store, task)
    print(json.dumps({"told": told, "errors": errors, "longest": longest}), flush=True)


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
