"""Several processes, of which one runs a periodic job. It is killed, and another one takes over.

    python examples/leader.py [--processes 3] [--ttl 2] [--persistence sqlite:////tmp/leader.db]

This program starts the processes and lets the leader run its job a few times. It kills the leader
with SIGKILL, and shows which process takes over, and after how long.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import anyio

from gogoscope import open_persistence, scope

TICKS_BEFORE, TICKS_AFTER = 3, 3


async def work(persistence: str, ttl: float) -> None:
    """Campaign again and again; run the job while leading."""
    async with open_persistence(persistence) as store, scope(persistence=store) as s:
        s.stop_on_signals()
        while not s.stopping.is_set():
            async with s.leader("nightly report", ttl=ttl) as term:
                # Another leader would have a higher token: pass it with each outside write.
                term.every(ttl / 4, partial(report, os.getpid(), term.fencing_token))


async def report(pid: int, fencing_token: int) -> None:
    """Run the job: report to the program that started this process."""
    print("tick", pid, fencing_token, flush=True)


def main(persistence: str, processes: int, ttl: float) -> None:
    """Start the processes, kill the leader, and see another one take over."""
    read, write = os.pipe()
    command = [sys.executable, __file__, "--persistence", persistence, "--ttl", str(ttl), "--work"]
    fleet = {}
    for _ in range(processes):
        process = subprocess.Popen(command, stdout=write)
        fleet[process.pid] = process
    os.close(write)
    try:
        with os.fdopen(read) as output:
            names = {pid: f"worker-{number}" for number, pid in enumerate(fleet, 1)}
            ticks = _ticks(output, names)
            leader, first_token = [next(ticks) for _ in range(TICKS_BEFORE)][-1]
            fleet[leader].kill()
            killed_at = time.monotonic()
            print(f"{names[leader]} was killed", flush=True)
            successor, second_token = next(tick for tick in ticks if tick[0] != leader)
            took = time.monotonic() - killed_at
            print(f"{names[successor]} took over after {took:.1f} s (the lease is {ttl:g} s)")
            if second_token <= first_token:
                raise RuntimeError("the fencing token did not grow")
            for _ in range(TICKS_AFTER):
                next(ticks)
    finally:
        for process in fleet.values():
            process.kill()
            process.wait()


def _ticks(output: IO[str], names: dict[int, str]) -> Iterator[tuple[int, int]]:
    for line in output:
        _, pid, token = line.split()
        print(f"{names[int(pid)]} runs the job, fencing token {token}", flush=True)
        yield int(pid), int(token)
    raise RuntimeError("every process has ended; see its output above")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--persistence", help="a URL; a SQLite file of its own if left out")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--ttl", type=float, default=2)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processes < 2:
        parser.error(f"--processes must be 2 or more, one to take over, got {options.processes}")
    if (options.persistence or "").lower().startswith("memory:"):
        parser.error("--persistence memory: is one process's own; the fleet needs a shared store")
    if options.work:
        anyio.run(work, options.persistence, options.ttl)
    elif options.persistence:
        main(options.persistence, options.processes, options.ttl)
    else:
        with TemporaryDirectory() as folder:
            main(f"sqlite:///{Path(folder) / 'leader.db'}", options.processes, options.ttl)
