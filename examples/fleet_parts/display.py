"""Live progress: a table in a terminal if ``rich`` is installed, plain lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .progress import Progress
from .verdict import Verdict

if TYPE_CHECKING:
    from rich.table import Table

LINE_EVERY = 2.0

Show = Callable[[Progress], None]


@contextmanager
def open_display() -> Iterator[Show]:
    """Return a function that shows the progress each time it is called."""
    if not sys.stdout.isatty():
        yield Lines().show
        return
    try:
        from rich.live import Live  # noqa: PLC0415 - optional
    except ImportError:
        print("(pip install rich shows a table here)")
        yield Lines().show
        return
    with Live(auto_refresh=False, transient=True) as live:
        yield lambda progress: live.update(table(progress), refresh=True)


class Lines:
    """Prints a line every few seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        """Print a line, unless the last one is recent."""
        if progress.seconds >= self._next:
            self._next = progress.seconds + LINE_EVERY
            print("  ".join(f"{name} {value}" for name, value in rows(progress)), flush=True)


def table(progress: Progress) -> Table:
    """Draw the progress for ``rich``."""
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - optional
    from rich.table import Table  # noqa: PLC0415 - optional

    drawn = Table(title="the fleet at work", show_header=False)
    bar = ProgressBar(total=progress.orders, completed=len(progress.charged), width=40)
    drawn.add_row("", bar)
    for name, value in rows(progress):
        drawn.add_row(name, value)
    return drawn


def rows(progress: Progress) -> list[tuple[str, str]]:
    """Return the figures to show while the fleet works."""
    return [
        ("seconds", f"{progress.seconds:.1f}"),
        ("charged", f"{len(progress.charged)}/{progress.orders}"),
        ("executing", str(progress.executing.total())),
        ("workers", str(progress.workers)),
        ("failures", str(progress.failures.total())),
        ("circuit", progress.circuit),
        ("spared", str(progress.spared)),
    ]


def summary(progress: Progress, verdict: Verdict) -> str:
    """Return the result of a run, one figure a line."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(progress.failures.items()))
    figures = {
        "orders paid": f"{len(verdict.paid)} of {progress.orders}",
        "charged twice": _count(verdict.charged_twice),
        "overlapping executions": _count(verdict.overlapped),
        "lost": _count(verdict.lost),
        "failures": f"{progress.failures.total()}" + (f" ({kinds})" if kinds else ""),
        "circuit opened": f"{len(progress.openings)} times",
        "calls spared": str(progress.spared),
        "seconds": f"{progress.seconds:.1f}",
    }
    return "\n".join(f"{name:24}{value}" for name, value in figures.items())


def _count(orders: set[str]) -> str:
    examples = ", ".join(sorted(orders)[:5]) + (", ..." if len(orders) > 5 else "")
    return f"{len(orders)} ({examples})" if orders else "0"
