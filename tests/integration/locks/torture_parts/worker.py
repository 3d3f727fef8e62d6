"""One of the tortured processes: takes locks, writes outside under them, and logs what it did."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from gogoscope import (
    GogoscopeError,
    LeaseLostError,
    LockTimeoutError,
    PersistenceError,
    open_persistence,
    scope,
)
from gogoscope.locks.acquire import locks_of
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from tests.integration.locks.torture_parts.plan import (
    CLOCK_ERRORS,
    KEYS,
    LARGEST_CLOCK_ERROR,
    LARGEST_STEP,
    LONGEST_LEASE,
    SHORTEST_LEASE,
    SMALLEST_STEP,
    WAITERS_PER_KEY,
)

START_SECONDS = 20.0
_RESOURCE = """
CREATE TABLE IF NOT EXISTS writes (
    number INTEGER PRIMARY KEY, key TEXT, token INTEGER, process INTEGER, accepted INTEGER
)
"""


class WrongClock:
    """The system's clock, set wrong by some seconds, and then now and then by much more."""

    def __init__(self, error: float) -> None:
        self._error = error
        self._step = 0.0

    def set(self, step: float) -> None:
        """Set it wrong by so much more than at the beginning."""
        self._step = step

    def wall(self) -> float:
        return time.time() + self._error + self._step

    def elapsed(self) -> float:
        return time.monotonic()


class Resource:
    """What the locks guard: it refuses a fencing token below one that it has seen."""

    def __init__(self, path: Path, process: int) -> None:
        self._process = process
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(_RESOURCE)

    def write(self, key: str, token: int) -> None:
        self._connection.execute(
            "INSERT INTO writes (key, token, process, accepted) "
            "SELECT ?1, ?2, ?3, ?2 >= coalesce(max(token), 0) FROM writes WHERE key = ?1",
            (key, token, self._process),
        )


def store_of(s: Any) -> Any:
    return locks_of(s._home)


class Logged(logging.Handler):
    """Notes what is logged for users: an error that nobody handled is told in that way."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        self._worker.note(
            "logged",
            text=f"{record.getMessage()}: {error!r}",
            error=type(error).__name__,
            fine=isinstance(error, GogoscopeError),
        )


class Worker:
    def __init__(self, number: int, folder: Path, chance: random.Random, clock: WrongClock) -> None:
        self._number = number
        self._clock = clock
        self._has_claimed = False
        self._end = folder / "end"
        self._chance = chance
        self._resource = Resource(folder / "resource.db", number)
        self._log = os.open(folder / f"log-{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def note(self, what: str, **more: Any) -> None:
        line = {"what": what, "at": time.monotonic(), **more}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def _note(self, what: str, waiter: int, **more: Any) -> None:
        self.note(what, waiter=waiter, **more)

    def set_clock(self, *_: object) -> None:
        """Set the wall clock forward, back, or right again, unless nobody has read it yet."""
        if self._has_claimed:
            by = SMALLEST_STEP * (LARGEST_STEP / SMALLEST_STEP) ** self._chance.random()
            step = self._chance.choice([by, -by, 0.0])
            self._clock.set(step)
            self.note("clock set " + ("right" if not step else "forward" if step > 0 else "back"))

    def _is_over(self) -> bool:
        """Return whether the end has come, which is written down when all processes are ready."""
        return self._end.exists() and time.monotonic() >= float(self._end.read_text())

    async def run(self, store: Any) -> None:
        async with (
            scope(persistence=store, name=f"worker {self._number}") as s,
            anyio.create_task_group() as group,
        ):
            for number, key in enumerate(KEYS * WAITERS_PER_KEY):
                group.start_soon(self._keep_working, s, key, number)

    async def _keep_working(self, s: Any, key: str, waiter: int) -> None:
        while not self._is_over():
            try:
                with anyio.move_on_after(self._some(0.1, 2) if self._often(0.1) else None):
                    await self._work(s, key, waiter)
            except LockTimeoutError:
                self._note("gave up", waiter, key=key)
            except LeaseLostError as lost:
                self._note("lost", waiter, key=key, reason=lost.reason)
            except PersistenceError as error:
                self._note("failed", waiter, key=key, error=repr(error))
            else:
                self._note("ended", waiter, key=key)
            await anyio.sleep(self._some(0, 0.05))

    async def _work(self, s: Any, key: str, waiter: int) -> None:
        lease = self._some(SHORTEST_LEASE, LONGEST_LEASE)
        wait = self._some(0.2, 3) if self._often(0.3) else None
        began = time.monotonic()
        self._note("waiting", waiter, key=key)
        async with s.lock(key, ttl=lease, wait=wait) as locked:
            token = locked.fencing_token
            self._has_claimed = True
            self._note("acquired", waiter, key=key, token=token, began=began, lease=lease)
            for _ in range(self._chance.randrange(1, 4)):
                await anyio.sleep(self._some(0, 0.05))
                if self._often(0.02):
                    time.sleep(self._some(0, 1.5 * lease))
                locked.ensure()
                if self._often(0.2):
                    time.sleep(self._some(0, 0.05))  # Being stopped here is what tokens are for.
                self._resource.write(key, token)
            if self._often(0.02):
                await store_of(s).force_release(key)
                await anyio.sleep(lease)
            if self._often(0.05):
                await anyio.sleep(2 * lease)
                locked.ensure()
                self._resource.write(key, token)

    def _some(self, least: float, most: float) -> float:
        return self._chance.uniform(least, most)

    def _often(self, share: float) -> bool:
        return self._chance.random() < share


async def main(options: argparse.Namespace) -> None:
    clock = WrongClock(CLOCK_ERRORS[options.number % len(CLOCK_ERRORS)])
    clocks: dict[str, Any] = {"clock": clock, "max_clock_skew": 2 * LARGEST_CLOCK_ERROR}
    worker = Worker(options.number, options.folder, random.Random(options.seed), clock)
    signal.signal(signal.SIGUSR1, worker.set_clock)
    log = logging.getLogger("gogoscope")
    log.addHandler(Logged(worker))
    log.propagate = False
    kind, *where = options.where
    if kind == "sqlite":
        async with SQLiteStore(where[0], **clocks) as store:
            await worker.run(store)
    elif kind == "url":  # of a server by whose clock everybody goes
        opened = await open_when_up(where[0])
        try:
            await worker.run(opened)
        finally:
            await opened.aclose()
    else:
        async with DynamoDBAdapter(None, where[1], endpoint_url=where[0], **clocks) as store:
            await worker.run(store)


async def open_when_up(url: str) -> Any:
    """Open a store; the server may be down just now, and come back."""
    with anyio.fail_after(START_SECONDS):
        while True:
            try:
                return await open_persistence(url).__aenter__()
            except PersistenceError as error:
                if not error.retryable:
                    raise
            await anyio.sleep(0.1)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int)
    parser.add_argument("--seed")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("where", nargs="+")
    anyio.run(main, parser.parse_args())
    sys.exit(0)
