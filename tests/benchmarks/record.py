"""Records what the benchmarks print, in ``docs/measured``, and draws plots and tables from it.

    python -m tests.benchmarks.record                # all that a quiet machine should measure
    python -m tests.benchmarks.record scope locks    # some
    python -m tests.benchmarks.record --short        # all, but with few rounds: do they run?
    python -m tests.benchmarks.record --draw         # none: only the plots and tables, once more

Each recording begins with its command, and with what it ran on: the Python, the number of
processors, and the versions of the libraries that it compares. One that was made with another
Python than 3.11 has its version in its name: ``scope-3.13.txt``. A benchmark that fails is named,
and keeps the recording that there was. Arguments after ``--`` go to the benchmark.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from attrs import frozen

from tests.benchmarks import figures, plots

ROOT = Path(__file__).resolve().parents[2]
MAIN_PYTHON = (3, 11)


@frozen
class Recording:
    """A benchmark whose output is kept.

    :param name: of the file, ``docs/measured/NAME.txt``
    :param module: of ``tests.benchmarks``
    :param arguments: for a recording
    :param short: arguments that let it run from start to end in little time
    :param peers: distributions that it compares
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    def command(self, python: str, *, short: bool = False, more: tuple[str, ...] = ()) -> list[str]:
        """Return the command that runs it."""
        arguments = self.short if short else self.arguments
        return [python, "-m", f"tests.benchmarks.{self.module}", *arguments, *more]

    def heading(self, more: tuple[str, ...]) -> str:
        """Return its command, and what it runs on."""
        names = tuple(Path(argument).name for argument in more)
        shown = " ".join(self.command("python", more=names))
        facts = [
            f"Python {platform.python_version()}",
            f"{os.cpu_count()} processors",
            f"{datetime.now(UTC):%Y-%m-%d}",
        ]
        facts += [f"{peer} {found}" for peer in self.peers if (found := _version(peer))]
        return f"$ {shown}\n{textwrap.fill(', '.join(facts), 96)}\n\n"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


RECORDINGS = (
    Recording(
        "scope",
        "bench_scope",
        ("--rounds", "9"),
        ("--rounds", "1"),
        ("anyio", "trio", "aiometer", "aiotools", "asyncer", "quattro"),
    ),
    Recording(
        "breaker",
        "bench_breaker",
        (),
        ("--rounds", "2"),
        ("circuitbreaker", "aiobreaker", "purgatory", "pybreaker"),
    ),
    Recording(
        "locks",
        "bench_locks",
        (),
        ("--rounds", "5", "--seconds", "1"),
        ("python-dynamodb-lock", "dynamo-dlm", "dynalock"),
    ),
    Recording(
        "stores",
        "bench_stores",
        (),
        ("--rounds", "2", "--items", "100"),
        ("cashews", "aiocache", "aiocache-dynamodb"),
    ),
    Recording("sqlite", "bench_sqlite", (), ("--rounds", "2"), ()),
    Recording("redis", "bench_redis", (), ("--rounds", "5"), ("redis",)),
    Recording("postgres", "bench_postgres", (), ("--rounds", "50"), ("psycopg",)),
    Recording("dynamodb", "bench_dynamodb", (), ("--rounds", "1"), ("aioboto3",)),
    Recording("lambda", "bench_lambda", (), ("--rounds", "1"), ("aioboto3",)),
    Recording(
        "observing",
        "bench_observing",
        ("--rounds", "9"),
        ("--rounds", "1"),
        ("opentelemetry-sdk",),
    ),
    Recording(
        "rate_limits",
        "bench_rate_limits",
        ("--seconds", "3"),
        ("--seconds", "0.3", "--rounds", "1"),
        ("limits", "pyrate-limiter"),
    ),
    Recording("run_once", "run_once_peers", (), (), ("aws-lambda-powertools",)),
    Recording(
        "schedules",
        "schedule_peers",
        ("--seconds", "30"),
        ("--seconds", "2", "--kills", "1", "--after", "3"),
        ("apscheduler",),
    ),
)


def record(recording: Recording, more: tuple[str, ...]) -> bool:
    """Run a benchmark and keep what it prints; tell whether it ran to its end."""
    suffix = "" if sys.version_info[:2] == MAIN_PYTHON else "-{}.{}".format(*sys.version_info)
    target = plots.MEASURED / f"{recording.name}{suffix}.txt"
    command = recording.command(sys.executable, more=more)
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode == 0:
        target.write_text(recording.heading(more) + ran.stdout.strip("\n") + "\n", encoding="utf-8")
    return ran.returncode == 0


def run_short(recording: Recording) -> bool:
    """Run a benchmark with few rounds; tell whether it ran to its end."""
    command = recording.command(sys.executable, short=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> None:
    """Record what is asked for, and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--draw", action="store_true")
    arguments = sys.argv[1:]
    more: tuple[str, ...] = ()
    if "--" in arguments:
        at = arguments.index("--")
        arguments, more = arguments[:at], tuple(arguments[at + 1 :])
    options = parser.parse_args(arguments)
    known = {recording.name: recording for recording in RECORDINGS}
    if unknown := set(options.names) - known.keys():
        parser.error(f"no recording {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    failed = []
    for name in [] if options.draw else options.names or known:
        began = time.monotonic()
        fine = run_short(known[name]) if options.short else record(known[name], more)
        told = "" if fine else " FAILED"
        print(f"{name:<14}{time.monotonic() - began:>6.0f} s{told}", file=sys.stderr, flush=True)
        if not fine:
            failed.append(name)
    if not options.short:
        plots.main()
        figures.main()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
