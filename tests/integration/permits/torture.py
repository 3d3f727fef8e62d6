"""Torture of permits: processes that are killed, stopped and lied to, on a store that misbehaves.

    python -m tests.integration.permits.torture [--seconds 60] [--seed 1]
        [--persistence sqlite|dynamodb|postgresql|redis]

Eight processes share a semaphore of three permits and a read/write lock. What is done to them, and
to the server, is what the torture of locks does: see ``tests/integration/locks/torture.py``. The
log is judged by ``judge.py``.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread

from gogoscope import LockTimeoutError, open_persistence, scope
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from tests.integration.locks.torture import (
    CALM_SECONDS,
    STORES,
    Fleet,
    _all_at_work,
    _all_ready,
    _unfinished,
    store_for,
)
from tests.integration.locks.torture_parts.plan import PROCESSES
from tests.integration.permits.judge import Verdict, judge, read_log
from tests.integration.permits.worker import LIMIT
from tests.support.engines import DUMMY_CREDENTIALS

LAST_SECONDS = 60.0


async def torture(persistence: str, seconds: float, seed: int) -> Verdict:
    """Torture the permits of a store, and judge what happened."""
    chance = random.Random(seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with store_for(persistence, folder, random.Random(chance.random())) as where:
            worker = [sys.executable, "-m", "tests.integration.permits.worker"]
            fleet = Fleet([*worker, "--folder", name, *where.arguments], folder, chance)
            crash = where.crash
            try:
                for _ in range(PROCESSES):
                    fleet.start()
                await _all_ready(folder)
                end = time.monotonic() + seconds
                (folder / "end.new").write_text(str(end))
                (folder / "end.new").rename(folder / "end")
                where.proxy.faulty = True
                while time.monotonic() < end - min(CALM_SECONDS, seconds / 4):
                    fleet.strike()
                    await anyio.sleep(chance.uniform(0.05, 0.4))
                    if crash is not None and time.monotonic() > end - seconds / 2:
                        await anyio.to_thread.run_sync(crash)
                        crash = None
                        fleet.done["crashes of the server"] += 1
                where.proxy.faulty = False
                for number in list(fleet.stopped):
                    fleet.resume(number)
                await _all_at_work(fleet)
                stuck = await _unfinished(fleet, max(end, time.monotonic()) + LAST_SECONDS)
            finally:
                fleet.kill_all()
            left = await _left(where.arguments)
        verdict = judge(read_log(folder), LIMIT)
        verdict.faults.update(fleet.done)
        verdict.faults.update(where.proxy.done)
        verdict.problems += [f"process {number} did not come to its end" for number in stuck]
        verdict.problems += left
        for path in folder.glob("errors-*"):
            if text := path.read_text().strip():
                verdict.problems.append(f"{path.name}: {text[-1500:]}")
    return verdict


async def _left(where: list[str]) -> list[str]:
    """Take every permit once more: what the dead left is free after their leases."""
    opened = (
        SQLiteStore(where[1])
        if where[0] == "sqlite"
        else open_persistence(where[1])
        if where[0] == "url"
        else DynamoDBAdapter(None, where[2], endpoint_url=where[1])
    )
    try:
        async with opened as store, scope(persistence=store) as s:
            async with s.semaphore("s", 1, wait=LAST_SECONDS):
                pass
            async with s.write_lock("rw", wait=LAST_SECONDS):
                pass
    except LockTimeoutError as error:
        return [f"after the end: {error}"]
    return []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--persistence", choices=STORES, default="sqlite")
    options = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    verdict = anyio.run(torture, options.persistence, options.seconds, options.seed)
    print(verdict)
    sys.exit(bool(verdict.problems))
