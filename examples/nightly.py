"""Processes with wrong clocks share a schedule; some are killed; each tick runs once all the same.

    python examples/nightly.py [--ticks 10] [--processes 3] [--kills 1] [--every 1] [--skew 1.5]
                               [--store URL]

In life a nightly job ticks once a night. Here it ticks every second, the clock of each process is
off by up to ``--skew`` seconds, and the process that runs the job is killed with SIGKILL, as often
as ``--kills`` says. Every process has the same schedule, and only its store knows of the others.

At the end it is judged what has run, by the notes of the processes: a tick that was missed, and one
that was started twice though its process lived, would fail this program. A tick whose process was
killed is started again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from attrs import frozen
from fleet_parts.journal import Fact, JournalReader
from fleet_parts.processes import start, stop
from fleet_parts.store import for_one_run, sqlite_url
from nightly_parts.worker import Work, run_worker

from gogoscope import GogoscopeError, open_persistence

LOOK_EVERY = 0.02
LONGEST_START = 120.0
LEASE = 2.0


@frozen
class Options:
    """What the command line asks for."""

    ticks: int
    processes: int
    kills: int
    every: float
    skew: float

    @property
    def deadline(self) -> float:
        """How many seconds all may take."""
        lost = self.kills * (LEASE + 2 * self.skew + self.every + 20)
        return LONGEST_START + 3 * self.ticks * self.every + lost


@frozen
class Run:
    """One start of a tick."""

    worker: str
    tick: int
    attempt: int
    seconds: float
    """How late it started, by the clock of this machine; less than 0 if it was early."""


class Fleet:
    """The processes, and what they have noted."""

    def __init__(self, options: Options, folder: Path, url: str) -> None:
        self.options = options
        self.folder = folder
        self.url = url
        self.workers: dict[str, BaseProcess] = {}
        self.journals: dict[str, JournalReader] = {}
        self.killed: set[str] = set()
        self.runs: list[Run] = []
        self.ended: set[tuple[str, int]] = set()

    async def run(self) -> bool:
        """Run until enough ticks have ended, killing processes meanwhile; return if they have."""
        options = self.options
        kill_at = [options.ticks * (n + 1) // (options.kills + 1) for n in range(options.kills)]
        with ExitStack() as files:
            with ExitStack() as processes:
                for number in range(options.processes):
                    self.start(f"process {number + 1}", files, processes)
                with anyio.move_on_after(options.deadline):
                    while kill_at or len({tick for _, tick in self.ended}) < options.ticks:
                        await anyio.sleep(LOOK_EVERY)
                        for run in self.new_runs():
                            due = kill_at and len({run.tick for run in self.runs}) >= kill_at[0]
                            if due and run.worker not in self.killed:
                                del kill_at[0]
                                self.kill(run.worker)
            list(self.new_runs())
        return len({tick for _, tick in self.ended}) >= options.ticks

    def start(self, name: str, files: ExitStack, processes: ExitStack) -> None:
        """Start a process whose clock is off."""
        journal = self.folder / f"{name}.jsonl"
        self.journals[name] = JournalReader(journal)
        files.callback(self.journals[name].close)
        off = random.uniform(-self.options.skew, self.options.skew)
        skew = 2 * self.options.skew
        work = Work(journal, self.url, self.options.every, off, skew, LEASE)
        self.workers[name] = start(name, run_worker, work)
        processes.callback(stop, self.workers[name])

    def kill(self, name: str) -> None:
        """Kill the process that has just begun to run the job."""
        self.workers[name].kill()
        self.killed.add(name)

    def new_runs(self) -> Iterator[Run]:
        """Read what the processes have noted since the last time."""
        for name, journal in self.journals.items():
            for fact in journal.new_facts():
                if fact["what"] == "begin":
                    run = run_of(name, fact)
                    self.runs.append(run)
                    yield run
                else:
                    self.ended.add((name, fact["tick"]))

    def judge(self) -> bool:
        """Print what has run, and return whether each tick did so once."""
        starts: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs:
            starts[run.tick].append(run)
        period = round(self.options.every * 1000)
        expected = range(min(starts), max(starts) + 1, period)
        missed = sorted(set(expected) - starts.keys())
        again = {tick: runs for tick, runs in starts.items() if len(runs) > 1}
        died = [tick for tick, runs in again.items() if all(map(self.died, sorted_runs(runs)[:-1]))]
        twice = sorted(set(again) - set(died))
        by = {run.worker for run in self.runs}
        lines = [
            ("ticks", len(starts)),
            ("missed", len(missed)),
            ("started twice", len(twice)),
            ("started again after a death", len(died)),
            ("processes that ran one", len(by)),
            ("killed", len(self.killed)),
            ("latest start", f"{max(run.seconds for run in self.runs):.1f} s"),
        ]
        for name, figure in lines:
            print(f"{name:<28} {figure}")
        for tick in twice:
            print(f"tick {tick} was started by {[run.worker for run in starts[tick]]}")
        return not missed and not twice

    def died(self, run: Run) -> bool:
        """Return whether a run died: its process was killed before it began another one."""
        later = [other for other in self.runs if other.worker == run.worker]
        return run.worker in self.killed and run is later[-1]


def sorted_runs(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.attempt)


def run_of(worker: str, fact: Fact) -> Run:
    return Run(worker, fact["tick"], fact["attempt"], fact["wall"] - fact["tick"] / 1000)


def main() -> int:
    """Run the fleet, and judge it."""
    options, store = parse(sys.argv[1:])
    with TemporaryDirectory() as folder, readable_errors():
        url = for_one_run(store or sqlite_url(Path(folder)))
        anyio.run(check_store, url)
        fleet = Fleet(options, Path(folder), url)
        began = time.monotonic()
        finished = anyio.run(fleet.run)
        if not fleet.runs:
            print("no tick ran")
            return 1
        kept = fleet.judge()
        print(f"{'time':<28} {time.monotonic() - began:.1f} s")
        if not finished:
            print("stopped: it took too long")
        return 0 if kept and finished else 1


async def check_store(url: str) -> None:
    """Make sure that the store answers, before processes are started that need it."""
    async with open_persistence(url) as store:
        await store.ping()


@contextmanager
def readable_errors() -> Iterator[None]:
    """End the program with the message of an error of the store."""
    try:
        yield
    except GogoscopeError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def parse(arguments: list[str]) -> tuple[Options, str | None]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--ticks", type=int, default=10, help="how many have to run")
    parser.add_argument("--processes", type=int, default=3, help="how many share the schedule")
    parser.add_argument("--kills", type=int, default=1, help="how many of them are killed")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from tick to tick")
    parser.add_argument("--skew", type=float, default=1.5, help="seconds by which clocks are off")
    parser.add_argument("--store", help="the URL of a store; a temporary SQLite file if left out")
    given = parser.parse_args(arguments)
    if given.ticks < 1:
        parser.error(f"--ticks must be 1 or more, got {given.ticks}")
    if not 0 <= given.kills < given.processes:
        parser.error(f"--kills must be 0 or more and less than --processes, got {given.kills}")
    if given.every < 0.1:
        parser.error(f"--every must be 0.1 or more, got {given.every}")
    if given.skew < 0:
        parser.error(f"--skew must be 0 or more, got {given.skew}")
    options = Options(given.ticks, given.processes, given.kills, given.every, given.skew)
    return options, given.store


if __name__ == "__main__":
    multiprocessing.freeze_support()
    sys.exit(main())
