"""A process of a history: asks a store, for some seconds a key, and writes down what it was told.

    history_worker.py URL PROCESS CLOCK_ERROR FOLDER KEYS SECONDS LEASE

It begins when there is a file ``begin`` in the folder, which says when, and comes to a new key
every so many seconds. Its wall clock is wrong by the error.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from attrs import define, field

from gogoscope import PersistenceError, open_persistence
from gogoscope._core.clock import clock_in_context
from tests.support.clocks import WrongClock

CACHE_TASKS = LOCK_TASKS = 2
LONGEST_PAUSE = 0.1
CHANCES = {
    "get": 30,
    "set": 15,
    "set_if_absent": 15,
    "delete": 15,
    "touch": 10,
    "set_many": 10,
    "delete_many": 5,
}


@define
class Asking:
    """One task of a process, which asks one thing at a time."""

    store: Any
    process: str
    log: Any
    lease: float
    values: int = 0
    chance: random.Random = field(factory=random.Random)

    async def ask(self, key: str, name: str, argument: Any, call: Callable[[], Any]) -> Any:
        """Ask, and write down what was told; return it, or ``None`` if it raised."""
        line = {"process": self.process, "key": key, "name": name, "argument": argument}
        line["began"] = time.monotonic()
        told = None
        try:
            told = await call()
        except PersistenceError as error:
            line["error"] = repr(error)
        else:
            line["result"] = told
            line["ended"] = time.monotonic()
        self.log.write(json.dumps(line) + "\n")
        return told

    async def use_cache(self, key: str) -> None:
        store = self.store
        (name,) = self.chance.choices([*CHANCES], [*CHANCES.values()])
        ttl = self.chance.choice([None, *(1000.0 * n for n in range(10, 60))])
        self.values += 1
        value = f"{self.process}.{self.values}"

        async def get() -> Any:
            entry = await store.get_entry(key, latest=True)
            if entry is None:
                return None, None
            return entry.value, None if entry.until_ms is None else round(entry.left, -3)

        calls: dict[str, tuple[Any, Callable[[], Awaitable[Any]]]] = {
            "get": (None, get),
            "set": ((value, ttl), lambda: store.set(key, value, ttl)),
            "set_if_absent": ((value, ttl), lambda: store.set(key, value, ttl, if_absent=True)),
            "delete": (None, lambda: store.delete(key)),
            "touch": (ttl, lambda: store.touch(key, ttl)),
            "set_many": ((value, ttl), lambda: store.set_many({key: value}, ttl)),
            "delete_many": (None, lambda: store.delete_many([key])),
        }
        await self.ask(key, name, *calls[name])

    async def use_lock(self, key: str) -> None:
        """Take a lock, hold it for a while, and release it, or leave it to its lease."""
        store, handle = self.store, None

        async def acquire() -> int | None:
            nonlocal handle
            handle = await store.acquire(key, self.lease)
            return None if handle is None else handle.fencing_token

        async def holder() -> int | None:
            found = await store.holder(key)
            return None if found is None else found.fencing_token

        await self.ask(key, "acquire", self.lease, acquire)
        if handle is None:
            await anyio.sleep(self.chance.uniform(0, 0.05))
            if self.chance.random() < 0.2:
                await self.ask(key, "holder", None, holder)
            # Nothing is freed by force: that may free a claim whose answer was lost, and which the
            # same call then makes once more. A call with two effects has no place in one order.
            return
        token = handle.fencing_token
        while self.chance.random() < 0.5:
            await anyio.sleep(self.chance.uniform(0, min(self.lease / 2, LONGEST_PAUSE)))
            if self.chance.random() < 0.5:
                await self.ask(key, "is_valid", token, handle.is_valid)
            else:
                lease = self.chance.choice([self.lease, self.lease / 2])
                await self.ask(key, "renew", (token, lease), partial(handle.extend, lease))
        if self.chance.random() < 0.8:
            await self.ask(key, "release", token, handle.release)
        elif self.chance.random() < 0.5:
            await anyio.sleep(self.lease)


async def main(
    url: str, process: str, error: str, folder: str, keys: str, seconds: str, lease: str
) -> None:
    clock_in_context.set(WrongClock(float(error)))
    begin = Path(folder, "begin")
    with Path(folder, f"history-{process}").open("w", buffering=1) as log:
        async with open_persistence(url) as store, anyio.create_task_group() as group:
            await store.get("warm up")
            Path(folder, f"ready-{process}").touch()
            while not begin.exists():
                await anyio.sleep(0.02)
            start = float(begin.read_text())

            async def keep_asking(asking: Asking, kind: str, use: Any) -> None:
                for number in range(int(keys)):
                    while time.monotonic() < start + (number + 1) * float(seconds):
                        await use(f"{kind}-{Path(folder).name}-{number}")
                        await anyio.sleep(asking.chance.uniform(0, 0.01))

            for number in range(CACHE_TASKS):
                asking = Asking(store, f"{process}c{number}", log, float(lease))
                group.start_soon(keep_asking, asking, "cache", asking.use_cache)
            for number in range(LOCK_TASKS):
                asking = Asking(store, f"{process}l{number}", log, float(lease))
                group.start_soon(keep_asking, asking, "lock", asking.use_lock)


if __name__ == "__main__":
    url, process, error, folder, keys, seconds, lease = sys.argv[1:]
    anyio.run(main, url, process, error, folder, keys, seconds, lease)
