"""Writes the table of figures of the README from what the benchmarks have printed.

    python -m tests.benchmarks.figures

``python -m tests.benchmarks.record`` runs the benchmarks, and then this.
"""

from __future__ import annotations

import re
from pathlib import Path

from attrs import frozen

from tests.benchmarks.plots import MEASURED

README = Path(__file__).resolve().parents[2] / "README.md"
HEAD = "| | [measured](docs/measured) | by |\n|---|---|---|\n"
TABLE = re.compile(rf"{re.escape(HEAD)}(\|.*\n)*")


@frozen
class Figure:
    """A row of the table.

    :param what: was measured
    :param told: how the numbers are told
    :param program: that measured it
    :param source: of the numbers, ``docs/measured/SOURCE.txt``
    :param rows: each finds one number in a line
    """

    what: str
    told: str
    program: str
    source: str = ""
    rows: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the row."""
        numbers = [f"{number(self.source, row):.3g}" for row in self.rows]
        return f"| {self.what} | {self.told.format(*numbers)} | `{self.program}` |\n"


def number(source: str, row: str) -> float:
    """Return the number that a recording has in a line."""
    text = (MEASURED / f"{source}.txt").read_text(encoding="utf-8")
    found = re.search(f"^{row}", text, re.MULTILINE)
    if found is None:
        raise LookupError(f"docs/measured/{source}.txt has no line {row!r}")
    return float(found[1])


CPU = r"acquire \+ release +\d+ us +([\d.]+)"
CPU_FAST = r"acquire \+ release +\d+ us +[\d.]+.?\(0.9\) +([\d.]+)"
FIGURES = (
    Figure(
        "400 orders, 4 workers, one killed with a lock",
        "each paid once",
        "examples/fleet.py --kill",
    ),
    Figure(
        "a lock on DynamoDB, of the processor's time of the same calls on aioboto3",
        "{}; {} with `fast=true`",
        "tests/benchmarks/bench_dynamodb.py",
        "dynamodb",
        (CPU, CPU_FAST),
    ),
    Figure(
        "a lock handed over in a process with 32 waiters on DynamoDB",
        "{} requests",
        "tests/benchmarks/bench_locks.py",
        "locks",
        (r"requests a handoff, 32 waiters in a process +([\d.]+)",),
    ),
    Figure(
        "a lock on Redis, of the time of two bare scripts",
        "{}",
        "tests/benchmarks/bench_redis.py",
        "redis",
        (r"acquire \+ release +[\d.]+ +[\d.]+ +([\d.]+)",),
    ),
    Figure(
        "a call through a closed circuit, with a retry",
        "no request; {} bare awaits",
        "tests/benchmarks/bench_breaker.py",
        "breaker",
        (r"gogoscope retry \+ breaker.call +\d+ +([\d.]+)",),
    ),
)


def with_figures(page: str) -> str:
    """Return the README with the figures that were measured last."""
    table = HEAD + "".join(figure.line() for figure in FIGURES)
    changed, times = TABLE.subn(lambda _: table, page)
    if times != 1:
        raise LookupError(f"the page needs one table that begins with {HEAD!r}")
    return changed


def main() -> None:
    """Write the table."""
    README.write_text(with_figures(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
