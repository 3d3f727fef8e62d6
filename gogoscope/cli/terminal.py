"""What people see in a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from attrs import frozen
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gogoscope._core.arguments import printable
from gogoscope.cli.fields import Field, for_people
from gogoscope.cli.listings import Listing

_STYLES = {
    **dict.fromkeys(("open", "forced-open", "crashed", "unknown", "failed", "wrong"), "bold red"),
    **dict.fromkeys(("half-open", "unkept", "waiting", "waits", "paused", "doubtful"), "yellow"),
    **dict.fromkeys(
        ("closed", "holds", "reads", "writes", "running", "done", "finished", "fine"), "green"
    ),
}


class Printer(Console):
    """Prints on the standard output; errors of that go on to whoever prints.

    It never hides the cursor: a signal that ends or stops the program would leave it hidden.
    """

    def show_cursor(self, show: bool = True) -> bool:
        """Do nothing."""
        return False

    def on_broken_pipe(self) -> None:
        """Let the error go on, which would end the program here with a code of its own."""
        raise  # noqa: PLE0704 - it is called where the error was caught


def show(renderable: RenderableType) -> None:
    """Print something."""
    Printer(highlight=False).print(renderable)


def table(listing: Listing, found: Mapping[str, Any]) -> RenderableType:
    """Return a table of what was listed, without columns in which nothing stands."""
    rows = [(key, record) for key, record in listing.rows(found)]
    if not rows:
        return Text(f"no {listing.name}", style="dim")
    told = [
        field
        for field in listing.fields
        if not field.detail and any(field.read(record) is not None for _, record in rows)
    ]
    headings = (listing.key, *(field.name.replace("_", " ") for field in told))
    return _Rows(
        headings,
        [
            (_text(key), *(_cell(field, record, briefly=True) for field in told))
            for key, record in rows
        ],
    )


def card(listing: Listing, key: str, record: Any) -> RenderableType:
    """Return one record, a line for each part."""
    parts = [(field.name.replace("_", " "), _cell(field, record)) for field in listing.fields]
    return _card([(listing.key, _text(key)), *parts])


def rows(headings: tuple[str, ...], found: Iterable[tuple[str, ...]]) -> RenderableType:
    """Return a table of texts, of which the second is a state."""
    return _Rows(
        headings,
        [
            (_text(first), Text(state, style=_STYLES.get(state, "")), *map(_text, others))
            for first, state, *others in found
        ],
    )


@frozen
class _Rows:
    """Rows below headings; a card for each where the terminal is too narrow for whole words."""

    headings: tuple[str, ...]
    rows: list[tuple[Text, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for heading in self.headings:
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        if table.__rich_measure__(console, options).minimum <= options.max_width:
            yield table
            return
        for row in self.rows:
            yield Text("")
            yield _card(zip(self.headings, row, strict=True))


def _card(parts: Iterable[tuple[str, Text]]) -> Table:
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    for name, part in parts:
        shown.add_row(name, part)
    return shown


def _text(text: str) -> Text:
    return Text(printable(text), overflow="fold")


def _cell(field: Field, record: Any, *, briefly: bool = False) -> Text:
    value = field.read(record)
    text = Text(for_people(field.kind, value, briefly=briefly), overflow="fold")
    if field.kind == "state":
        text.stylize(_STYLES.get(str(value), ""))
    elif field.kind == "seconds" and value is not None and value < 0:
        text.stylize("bold red")
    elif value is None:
        text.stylize("dim")
    return text


class Screen:
    """A table that is drawn again and again: in its place, or below itself in a dumb terminal.

    :param what: what is watched
    :param every: how often it is drawn, in seconds
    """

    def __init__(self, what: str, every: float) -> None:
        self._about = f"{what} every {every:g} s; Ctrl-C ends it"
        self._last: RenderableType = Text("")
        self._printer = Printer(highlight=False)
        self._live = Live(auto_refresh=False, console=self._printer)

    def __enter__(self) -> Self:
        if not self._printer.is_dumb_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def update(self, shown: RenderableType) -> None:
        """Draw this in the place of what was drawn before."""
        self._last = shown
        self._draw(Text(f"{time.strftime('%H:%M:%S')}  {self._about}", style="dim"))

    def failed(self, error: Exception) -> None:
        """Tell that there is nothing newer to draw."""
        told = printable(" ".join(str(error).split()))
        self._draw(Text(f"{time.strftime('%H:%M:%S')}  no answer: {told}", style="bold red"))

    def _draw(self, heading: Text) -> None:
        shown = Group(heading, self._last)
        if self._printer.is_dumb_terminal:
            self._printer.print(shown)
        else:
            self._live.update(shown, refresh=True)


NO_SCREEN: AbstractContextManager[None] = nullcontext()
