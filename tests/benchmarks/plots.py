"""Draws the plots of the site from what the benchmarks have printed, kept in ``docs/measured``.

Each plot is an SVG of bars, drawn in the colours of the text around it, so that it can be read in
light and dark. Run it from the repository after a benchmark has been run again:

    python -m tests.benchmarks.plots

``python -m tests.benchmarks.record`` runs the benchmarks, and then this.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from attrs import frozen

DOCS = Path(__file__).resolve().parents[2] / "docs"
MEASURED, PLOTS = DOCS / "measured", DOCS / "plots"

# Narrow, with each name above its bar, so that a phone shows the letters large enough.
WIDTH, VALUES, ROW, NAME, BAR = 420, 64, 38, 16, 12
# Both can be told from white and from the dark ground of the site.
OURS, OTHERS = "#5c6bc0", "#808080"


@frozen
class Rows:
    """What a plot takes from a table that a benchmark prints.

    :param source: of the measurement, ``docs/measured/SOURCE.txt``
    :param section: what the line before the first row begins with
    :param row: finds name and value in a line
    :param called: how a name is shown
    :param left_out: names that are not drawn, since they measure something else
    """

    source: str
    section: str
    row: str
    called: str = "{}"
    left_out: tuple[str, ...] = ()

    def values(self) -> dict[str, float]:
        """Return what was measured."""
        lines = (MEASURED / f"{self.source}.txt").read_text(encoding="utf-8").splitlines()
        begin = next(n for n, line in enumerate(lines) if line.startswith(self.section))
        found = {}
        for line in lines[begin + 1 :]:
            if not line.strip():
                break
            row = re.match(self.row, line)
            if row is not None and row["name"].strip() not in self.left_out:
                found[self.called.format(row["name"].strip())] = float(row["value"])
        return found


@frozen
class Plot:
    """Bars of what was measured.

    :param name: of the plot, ``docs/plots/NAME.svg``
    :param title: what the bars show, and in which unit
    :param rows: of which tables they are
    :param ordered: whether the bars keep the order of the tables, instead of the least first
    :param ours: what the names of our bars begin with
    """

    name: str
    title: str
    rows: tuple[Rows, ...]
    ordered: bool = False
    ours: tuple[str, ...] = ("gogoscope",)

    def values(self) -> dict[str, float]:
        """Return what was measured, in the order of the bars."""
        found = {name: value for rows in self.rows for name, value in rows.values().items()}
        if self.ordered:
            return found
        return dict(sorted(found.items(), key=lambda pair: pair[1]))

    def draw(self) -> str:
        """Return the SVG."""
        values = self.values()
        # One that is far behind gets a bar that is cut off, so that the others can be compared.
        longest = sorted(values.values())[-2] * 1.25
        longest = min(longest, max(values.values())) or 1
        height = ROW * len(values) + 8
        told = "; ".join(f"{name}: {value:g}" for name, value in values.items())
        parts = [
            (
                f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" '
                f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(self.title)}. '
                f'{escape(told)}" fill="currentColor" font-family="sans-serif" font-size="13">'
            )
        ]
        for number, (name, value) in enumerate(values.items()):
            top = 4 + number * ROW + NAME
            length = max(2.0, min(1.0, value / longest) * (WIDTH - VALUES))
            colour = OURS if name.startswith(self.ours) else OTHERS
            parts.append(
                f'<text x="0" y="{top - 4}">{escape(name)}</text>'
                f'<rect x="0" y="{top}" width="{length:.0f}" height="{BAR}" rx="2" '
                f'fill="{colour}"/>'
            )
            if value > longest:
                parts.append(
                    f'<path d="M{length - 14:.0f} {top + BAR + 2}l6 -{BAR + 4}" fill="none" '
                    f'stroke="currentColor" stroke-width="2"/>'
                )
            parts.append(f'<text x="{length + 6:.0f}" y="{top + BAR - 1}">{value:g}</text>')
        return "\n".join([*parts, "</svg>"]) + "\n"


NUMBER = r"(?P<value>[\d.]+)"
SIDE = rf"  (?P<name>[^\s:][^:]*?)\s+{NUMBER}\s+[\d.]+(\s|$)"
"""A row of ``bench_scope``: microseconds and ratio."""
LOCKS = " " * 24 + " requests"
"""What the table of locks on DynamoDB begins with."""
RATIO = rf"(?P<name>acquire \+ release|set|get)\s+[\d.]+\s+[\d.]+\s+{NUMBER}"
"""A row of a store: microseconds of ours and of what it is compared with, and their ratio."""

PLOTTED = (
    Plot(
        "breaker",
        "Nanoseconds of a call through a closed circuit",
        (
            Rows(
                "breaker",
                "call ",
                rf"(?P<name>\S.*?)\s+{NUMBER}\s+[\d.]+$",
                left_out=(
                    "bare await",
                    "two coroutines around it",
                    "gogoscope retry",
                    "gogoscope retry + breaker.call",
                ),
            ),
        ),
    ),
    Plot(
        "sequential",
        "Microseconds of starting a task that does nothing and awaiting it",
        (Rows("scope", "sequential await of a no-op", SIDE),),
    ),
    Plot(
        "fan_out",
        "Microseconds a task of 10,000 that do nothing and are started at once",
        (Rows("scope", "fan-out of 10,000 no-ops", SIDE),),
    ),
    Plot(
        "sleepers",
        "Microseconds a task of 1,000 that sleep for a millisecond",
        (Rows("scope", "1,000 tasks that sleep 1 ms", SIDE),),
    ),
    Plot(
        "map",
        "Microseconds an item of 10,000 that are mapped, ten at a time",
        (
            Rows(
                "scope",
                "map of 10,000 yields",
                SIDE,
                left_out=("gogoscope, async for", "gogoscope, from a generator"),
            ),
        ),
    ),
    Plot(
        "lock_alone",
        "Milliseconds of taking and releasing a lock on DynamoDB",
        (Rows("locks", LOCKS, rf"(?P<name>\S+)\s+[\d.]+\s+{NUMBER}"),),
    ),
    Plot(
        "lock_contended",
        "Requests to DynamoDB for each handover among eight waiters",
        (Rows("locks", LOCKS, rf"(?P<name>\S+)\s+[\d.]+\s+[\d.]+\s+{NUMBER}"),),
    ),
    Plot(
        "lock_redis",
        "Microseconds of taking and releasing a lock on Redis",
        (
            Rows("redis", "Redis", rf"(?P<name>acquire \+ release)\s+{NUMBER}", "gogoscope"),
            Rows("redis", "Redis", rf"(?P<name>redis-py's Lock)\s+{NUMBER}"),
        ),
    ),
    Plot(
        "hits",
        "Microseconds of a hit in the memory of the process, of a small dict",
        (Rows("stores", "memory: a hit", rf"(?P<name>\S.*), small dict\s+{NUMBER}"),),
    ),
    Plot(
        "stores",
        "Time of an operation, to that of the bare requests or statements it is made of",
        (
            Rows("sqlite", "SQLite, on one processor", RATIO, "SQLite: {}"),
            Rows(
                "postgres",
                " " * 22,
                rf"(?P<name>\S.*?)\s+\d+us\s+\d+us\s+{NUMBER}",
                "PostgreSQL: {}",
            ),
            Rows("redis", "Redis", RATIO, "Redis: {}"),
            Rows("redis", "Redis", rf"(?P<name>redis-py's Lock)\s+\S+\s+\S+\s+{NUMBER}"),
            Rows("stores", "DynamoDB", RATIO, "DynamoDB: {}"),
            Rows(
                "stores",
                "DynamoDB",
                rf"(?P<name>aiocache-dynamodb \S+)\s+\S+\s+\S+\s+{NUMBER}",
            ),
        ),
        ordered=True,
        ours=("SQLite:", "PostgreSQL:", "Redis:", "DynamoDB:"),
    ),
)


def main() -> None:
    """Draw all plots whose measurement is there."""
    PLOTS.mkdir(exist_ok=True)
    for plot in PLOTTED:
        (PLOTS / f"{plot.name}.svg").write_text(plot.draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
