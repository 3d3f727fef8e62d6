"""One of the tortured processes: takes permits, and logs when it is sure to have them."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
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
    Scope,
    scope,
)
from gogoscope.permits.acquire import permits_of
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from tests.integration.locks.torture_parts.worker import WrongClock, open_when_up

LIMIT = 3
CLOCK_ERRORS = (0.0, 1.5, -1.5, 0.0, 0.7, -0.7)
LARGEST_STEP = 3_600.0
SHORTEST_LEASE, LONGEST_LEASE = 0.4, 2.0
WHAT = ("semaphore", "semaphore", "read", "read", "write")


class Logged(logging.Handler):
    """Notes what is logged for users: an error that nobody handled is told in that way."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        fine = isinstance(error, GogoscopeError)
        self._worker.note("logged", text=f"{record.getMessage()}: {error!r}", fine=fine)


class Worker:
    def __init__(self, number: int, folder: Path, chance: random.Random, clock: WrongClock) -> None:
        self._chance = chance
        self._clock = clock
        self._end = folder / "end"
        self._entered = 0
        self._log = os.open(folder / f"log-{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def note(self, what: str, at: Any = None, **more: Any) -> None:
        line = {"what": what, "at": time.monotonic() if at is None else at, **more}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def set_clock(self, *_: object) -> None:
        """Set the wall clock forward, back, or right again, unless nobody has read it yet."""
        if self._entered:
            step = self._chance.choice([self._chance.uniform(-1, 1) * LARGEST_STEP, 0.0])
            self._clock.set(step)
            self.note("clock set")

    async def run(self, store: Any) -> None:
        async with scope(persistence=store) as s, anyio.create_task_group() as group:
            for number, what in enumerate(WHAT):
                group.start_soon(self._keep_working, s, what, number)

    def _is_over(self) -> bool:
        return self._end.exists() and time.monotonic() >= float(self._end.read_text())

    async def _keep_working(self, s: Scope, what: str, waiter: int) -> None:
        while not self._is_over():
            try:
                with anyio.move_on_after(self._some(0.05, 2) if self._often(0.15) else None):
                    await self._work(s, what, waiter)
            except LockTimeoutError:
                self.note("gave up", kind=what, waiter=waiter)
            except LeaseLostError as lost:
                self.note("lost", kind=what, waiter=waiter, reason=lost.reason)
            except PersistenceError as error:
                self.note("failed", kind=what, waiter=waiter, error=repr(error))
            await anyio.sleep(self._some(0, 0.1))

    async def _work(self, s: Scope, what: str, waiter: int) -> None:
        lease = self._some(SHORTEST_LEASE, LONGEST_LEASE)
        wait = self._some(0.2, 3) if self._often(0.2) else None
        began = time.monotonic()
        self.note("waiting", kind=what, waiter=waiter)
        block = {
            "semaphore": lambda: s.semaphore("s", LIMIT, ttl=lease, wait=wait),
            "read": lambda: s.read_lock("rw", ttl=lease, wait=wait),
            "write": lambda: s.write_lock("rw", ttl=lease, wait=wait),
        }[what]()
        async with block as permit:
            self._entered += 1
            token = permit.fencing_token
            told: dict[str, Any] = {"kind": what, "waiter": waiter, "token": token}
            self.note("acquired", began=began, **told)
            for _ in range(self._chance.randrange(2, 6)):
                at = time.monotonic()  # before: what is sure then was sure at that time
                permit.ensure()
                self.note("held", at, **told)
                await anyio.sleep(self._some(0, 0.05))
                if self._often(0.01):
                    time.sleep(self._some(0, 1.5 * lease))
            if self._often(0.02):
                kind: Any = "semaphore" if what == "semaphore" else "read_write_lock"
                await permits_of(s._home).force_release_permits(kind, permit.key, token)
                await anyio.sleep(lease)
        self.note("ended", kind=what, waiter=waiter)

    def _some(self, least: float, most: float) -> float:
        return self._chance.uniform(least, most)

    def _often(self, share: float) -> bool:
        return self._chance.random() < share


async def main(options: argparse.Namespace) -> None:
    clock = WrongClock(CLOCK_ERRORS[options.number % len(CLOCK_ERRORS)])
    skew = 2 * max(CLOCK_ERRORS)
    clocks: dict[str, Any] = {"clock": clock, "max_clock_skew": skew}
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


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int)
    parser.add_argument("--seed")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("where", nargs="+")
    anyio.run(main, parser.parse_args())
    sys.exit(0)
