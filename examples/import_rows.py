"""An import of 100,000 rows that is killed again and again, and goes on where it stopped.

    python examples/import_rows.py [--rows 100000] [--kills 5] [--store sqlite:////tmp/import.db]

The import is a process that runs ``s.resume``. It shows its progress whenever what it has done is
saved. In the middle of a row it is killed by SIGKILL, and this program starts it again, until all
rows are done.

Each run of a row is written to a file. At the end they are counted: no row may be missing, and none
may have run twice but for those that a kill may undo. These are the ``LIMIT`` rows that run, or
wait for the loop, the one that the loop has, and those that the loop was done with since the last
save, which is at most ``--save-every`` seconds old.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.lowlevel
from attrs import field, frozen, mutable
from fleet_parts.store import for_one_run

from gogoscope import GogoscopeError, JobProgress, scope
from gogoscope.events import Event, JobSaved

LIMIT = 50
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no other signal that kills
LEASE = 1.5
"""How long the job stays with a process that was killed."""


@frozen
class Options:
    """What the command line asks for."""

    rows: int
    kills: int
    save_every: float
    store: str


class Importer:
    """The import: the process that is killed."""

    def __init__(self, options: Options, log: Path, killed_after: int | None) -> None:
        self.store = options.store
        self.rows = range(options.rows)
        self.save_every = options.save_every
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.left = killed_after

    async def run(self) -> None:
        """Load the rows that are not loaded yet."""
        async with scope(persistence=self.store, on_event=self.show) as s:
            rows = s.resume(
                "import",
                self.load,
                self.rows,
                limit=LIMIT,
                save_every=self.save_every,
                lease=LEASE,
            )
            async for row, result in rows:
                result.unwrap()
                self.note("done", row)

    async def load(self, row: int) -> None:
        """Load a row, which takes a while."""
        self.note("run", row)
        await anyio.lowlevel.checkpoint()
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), KILL)

    def show(self, event: Event) -> None:
        """Draw the progress after each save: over the last one in a terminal."""
        if isinstance(event, JobSaved) and event.done is not None:
            self.note("saved", event.done)
            progress = JobProgress(event.done, event.total, event.rate)
            end = "\r" if sys.stdout.isatty() else "\n"
            print(f"[{progress.bar()}] {progress}".ljust(90), end=end, flush=True)

    def note(self, what: str, number: int) -> None:
        """Write a fact in one piece, so that it is known whatever happens next."""
        os.write(self.log, f"{what} {number}\n".encode())


@mutable
class Tally:
    """What the runs of the import have done, by the file that they wrote."""

    runs: Counter[int] = field(factory=Counter)
    done: set[int] = field(factory=set)
    saved: int = 0
    allowed: int = 0
    """How many runs for the second time the kills explain."""

    def read(self, log: Path) -> None:
        """Count what a process has written, which has ended."""
        for line in log.read_text().splitlines():
            what, number = line.split()
            if what == "run":
                self.runs[int(number)] += 1
            elif what == "done":
                self.done.add(int(number))
            else:
                self.saved = int(number)

    def killed(self) -> None:
        """Note that the process was killed whose file was read last."""
        self.allowed += LIMIT + 1 + len(self.done) - self.saved

    @property
    def twice(self) -> int:
        """How many runs were not the first of their row."""
        return self.runs.total() - len(self.runs)


def main(options: Options, folder: Path) -> int:
    """Start the import until it ends by itself; return the exit code."""
    tally, began, starts = Tally(), time.monotonic(), 0
    while True:
        starts += 1
        log = folder / f"{starts}.log"
        rows = options.rows // (options.kills + 1) if starts <= options.kills else None
        exit_code = start(options, log, rows)
        tally.read(log)
        if exit_code not in (-KILL, KILL):
            break
        tally.killed()
        print(f"\nkilled after {len(tally.done):,} rows", flush=True)
    missing = options.rows - len(tally.done)
    print()
    print(f"rows done         {len(tally.done):,} of {options.rows:,}")
    print(f"kills             {starts - 1}")
    print(f"rows run again    {tally.twice:,}, and {tally.allowed:,} may have been")
    print(f"seconds           {time.monotonic() - began:.1f}")
    if exit_code or missing or len(tally.runs) != options.rows or tally.twice > tally.allowed:
        print("that is not what was promised")
        return 1
    return 0


def start(options: Options, log: Path, killed_after: int | None) -> int:
    """Run the import; return its exit code.

    :param killed_after: how many rows it runs before it is killed, ``None`` for all
    """
    command = [sys.executable, __file__, "--store", options.store, "--rows", str(options.rows)]
    command += ["--save-every", str(options.save_every), "--work", str(log)]
    if killed_after is not None:
        command += ["--killed-after", str(killed_after)]
    return subprocess.run(command, check=False).returncode


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=100_000, metavar="N", help="default: 100000")
    parser.add_argument("--kills", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--save-every", type=float, default=0.5, metavar="SECONDS", help="default: 0.5"
    )
    parser.add_argument("--store", metavar="URL", help="default: a temporary SQLite file")
    parser.add_argument("--work", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--killed-after", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rows < 1:
        parser.error(f"--rows must be 1 or more, got {given.rows}")
    if not 0 <= given.kills < given.rows:
        parser.error(f"--kills must be 0 or more, and less than the rows, got {given.kills}")
    if (given.store or "").lower().startswith("memory:"):
        parser.error("--store memory: ends with its process; the import needs one that stays")
    return given


if __name__ == "__main__":
    arguments = parse_options()
    given_options = partial(Options, arguments.rows, arguments.kills, arguments.save_every)
    try:
        if arguments.work:
            log, after = Path(arguments.work), arguments.killed_after
            anyio.run(Importer(given_options(arguments.store), log, after).run)
            sys.exit(0)
        with TemporaryDirectory(prefix="import-") as name:
            url = for_one_run(arguments.store or f"sqlite:///{Path(name) / 'import.db'}")
            print(f"{arguments.rows:,} rows, store {url}", flush=True)
            sys.exit(main(given_options(url), Path(name)))
    except GogoscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
