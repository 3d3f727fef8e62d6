"""Torture of locks: processes that are killed, stopped and lied to, on a store that misbehaves.

    python -m tests.integration.locks.torture [--seconds 60] [--seed 1]
        [--persistence sqlite|dynamodb|postgresql|redis]

Eight processes, with clocks that are wrong by up to 5 s, pass three locks around. Some are killed,
some are stopped for longer than their lease and continued, and of some the wall clock is set by up
to an hour, forward or back, and right again. Between them and a server is a proxy that loses,
delays, repeats and refuses, and PostgreSQL crashes and recovers in the middle. Each writes to a
resource outside, after ``ensure()``; the resource
refuses a fencing token below one that it has seen. Afterwards the log is judged: see
``torture_parts/judge.py``. The same seed gives the same plan, though not the same timing.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import anyio
import anyio.to_thread
from attrs import define, field, frozen

from gogoscope import open_persistence
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import open_client
from tests.integration.locks.torture_parts.judge import Verdict, judge, read_log
from tests.integration.locks.torture_parts.plan import KEYS, LONGEST_LEASE, PROCESSES
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine
from tests.support.faulty_proxy import FAULTS as FAULTS_OF_HTTP
from tests.support.faulty_proxy import FaultyProxy
from tests.support.postgres_proxy import FAULTS, PostgresProxy
from tests.support.postgres_server import running_postgres
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_server import running_redis

START_SECONDS = 60.0
CALM_SECONDS = 3.0
MOST_STOPPED = 3
FEWEST_AT_WORK = 4
STORES = ("sqlite", "dynamodb", "postgresql", "redis")


@define
class Fleet:
    """The processes, and what was done to them.

    ``ends`` are (time, process) of those that were killed or stopped, on the monotonic clock that
    all processes of a machine share.
    """

    command: list[str]
    folder: Path
    chance: random.Random
    done: Counter[str] = field(factory=Counter)
    ends: list[tuple[float, int]] = field(factory=list)
    processes: dict[int, subprocess.Popen[bytes]] = field(factory=dict)
    stopped: dict[int, float] = field(factory=dict)
    started: int = 0

    def start(self) -> None:
        number = self.started
        self.started += 1
        with (self.folder / f"errors-{number}").open("wb") as errors:
            self.processes[number] = subprocess.Popen(
                [*self.command, "--number", str(number), "--seed", str(self.chance.random())],
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )

    def strike(self) -> None:
        """Continue those that were stopped long enough; kill or stop one, or set its clock."""
        now = time.monotonic()
        for number, until in list(self.stopped.items()):
            if until <= now:
                self.resume(number)
        at_work = sorted(filter(self.has_begun, self.processes.keys() - self.stopped.keys()))
        if len(at_work) < FEWEST_AT_WORK:
            return  # It takes a loaded machine its time to start the others.
        number = self.chance.choice(at_work)
        if self.chance.random() < 0.4:
            self.processes[number].send_signal(signal.SIGUSR1)
        elif self.chance.random() < 0.4:
            self.processes[number].kill()
            self.processes.pop(number).wait()
            self.ends.append((time.monotonic(), number))
            self.done["killed"] += 1
            self.start()
        elif len(self.stopped) < MOST_STOPPED:
            self.processes[number].send_signal(signal.SIGSTOP)
            self.ends.append((time.monotonic(), number))
            self.stopped[number] = now + self.chance.uniform(0.5, LONGEST_LEASE + 0.5)
            self.done["stopped and continued"] += 1

    def has_begun(self, number: int) -> bool:
        """Return whether a process has opened the store and waits for locks."""
        log = self.folder / f"log-{number}"
        return log.exists() and log.stat().st_size > 0

    def resume(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGCONT)
        del self.stopped[number]

    def kill_all(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


class Proxy(Protocol):
    """What is between the processes and a server, and how often what happened there."""

    faulty: bool
    done: Counter[str]


class NoProxy:
    """Nothing is between the processes and a file."""

    def __init__(self) -> None:
        self.faulty = False
        self.done: Counter[str] = Counter()


@frozen
class Where:
    """A store that was set up: the arguments with which a process opens it, and what is before it.

    ``crash`` lets its server crash and recover, in a thread.
    """

    arguments: list[str]
    proxy: Proxy
    crash: Callable[[], None] | None = None


@asynccontextmanager
async def store_for(
    persistence: str, folder: Path, chance: random.Random, share: float = 1.0
) -> AsyncIterator[Where]:
    """Set a store up.

    :param share: how many of the usual faults happen
    """
    faults = {name: often * share for name, often in FAULTS.items()}
    faults_of_http = {name: often * share for name, often in FAULTS_OF_HTTP.items()}
    if persistence == "sqlite":
        yield Where(["sqlite", str(folder / "store.db")], NoProxy())
    elif persistence == "postgresql":
        async with _postgres(PostgresProxy(chance, faults)) as where:
            yield where
    elif persistence == "redis":
        async with _redis(RedisProxy(chance, faults)) as where:
            yield where
    else:
        async with _dynamodb(FaultyProxy(chance, faults_of_http)) as where:
            yield where


@asynccontextmanager
async def _postgres(proxy: PostgresProxy) -> AsyncIterator[Where]:
    running = running_postgres()
    server = await anyio.to_thread.run_sync(running.__enter__)

    def crash() -> None:
        server.kill()
        server.start()

    try:
        async with proxy.running(server.url):
            yield Where(["url", f"{proxy.url(server.url)}&create=true"], proxy, crash)
    finally:
        await anyio.to_thread.run_sync(running.__exit__, None, None, None)


@asynccontextmanager
async def _redis(proxy: RedisProxy) -> AsyncIterator[Where]:
    with running_redis(persistent=True) as server:

        def crash() -> None:
            server.kill()
            server.start()

        async with proxy.running(server.url):
            yield Where(["url", proxy.url(server.url)], proxy, crash)


@asynccontextmanager
async def _dynamodb(proxy: FaultyProxy) -> AsyncIterator[Where]:
    engine = running_engine()
    found = await anyio.to_thread.run_sync(engine.__enter__)
    try:
        table = new_table_name()
        async with open_client(endpoint_url=found.endpoint_url) as client:
            await create_table(client, table)
        async with proxy.running(found.endpoint_url):
            yield Where(["dynamodb", proxy.url, table], proxy)
    finally:
        await anyio.to_thread.run_sync(engine.__exit__, None, None, None)


async def torture(persistence: str, seconds: float, seed: int) -> Verdict:
    """Torture the locks of a store, and judge what happened."""
    chance = random.Random(seed)
    down = 0.0
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with store_for(persistence, folder, random.Random(chance.random())) as where:
            proxy, crash = where.proxy, where.crash
            worker = [sys.executable, "-m", "tests.integration.locks.torture_parts.worker"]
            arguments = ["--folder", name, *where.arguments]
            fleet = Fleet([*worker, *arguments], folder, chance)
            try:
                for _ in range(PROCESSES):
                    fleet.start()
                await _all_ready(folder)
                end = time.monotonic() + seconds
                (folder / "end.new").write_text(str(end))
                (folder / "end.new").rename(folder / "end")
                proxy.faulty = True
                while time.monotonic() < end - min(CALM_SECONDS, seconds / 4):
                    fleet.strike()
                    await anyio.sleep(chance.uniform(0.05, 0.4))
                    if crash is not None and time.monotonic() > end - seconds / 2:
                        began = time.monotonic()
                        await anyio.to_thread.run_sync(crash)
                        down, crash = time.monotonic() - began, None
                        fleet.done["crashes of the server"] += 1
                proxy.faulty = False
                for number in list(fleet.stopped):
                    fleet.resume(number)
                await _all_at_work(fleet)
                stuck = await _unfinished(
                    fleet, max(end, time.monotonic()) + 2 * LONGEST_LEASE + 10
                )
            finally:
                fleet.kill_all()
            left = await _locks_left(where.arguments)
        verdict = judge(read_log(folder), fleet.ends, persistence != "sqlite", down)
        verdict.faults.update(fleet.done)
        verdict.faults.update(proxy.done)
        verdict.problems += [f"process {number} did not come to its end" for number in stuck]
        verdict.problems += [f"a lock was left behind: {lock}" for lock in left]
        for path in folder.glob("errors-*"):
            if text := path.read_text().strip():
                verdict.problems.append(f"{path.name}: {text[-1500:]}")
    return verdict


async def _all_ready(folder: Path) -> None:
    with anyio.fail_after(START_SECONDS):
        while sum(path.stat().st_size > 0 for path in folder.glob("log-*")) < PROCESSES:
            await anyio.sleep(0.05)


async def _all_at_work(fleet: Fleet) -> None:
    """Wait for those that are still being started, so that they may end, too."""
    with anyio.fail_after(START_SECONDS):
        for number, process in fleet.processes.items():
            while not (fleet.has_begun(number) or process.poll() is not None):
                await anyio.sleep(0.1)


async def _unfinished(fleet: Fleet, give_up_at: float) -> list[int]:
    while time.monotonic() < give_up_at:
        if all(process.poll() is not None for process in fleet.processes.values()):
            break
        await anyio.sleep(0.1)
    return [number for number, process in fleet.processes.items() if process.poll() is None]


async def _locks_left(where: list[str]) -> list[str]:
    if where[0] == "sqlite":
        async with SQLiteStore(where[1]) as store:
            return [key for key in KEYS if await store.holder(key) is not None]
    if where[0] == "url":
        async with open_persistence(where[1]) as opened:
            return [key for key in KEYS if await opened.holder(key) is not None]
    async with DynamoDBAdapter(None, where[2], endpoint_url=where[1]) as table:
        return [f"{key!r}: {found}" for key in KEYS if (found := await table.holder(key))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--persistence", choices=STORES, default="sqlite")
    options = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    outcome = anyio.run(torture, options.persistence, options.seconds, options.seed)
    print(outcome)
    sys.exit(bool(outcome.problems))
