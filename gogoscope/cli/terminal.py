"""What people see in a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
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


def show(renderable: RenderableType) -> None:
    """Print something."""
    Console(highlight=False).print(renderable)


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
    shown = _columns(listing.key, *(field.name.replace("_", " ") for field in told))
    for key, record in rows:
        cells = [_cell(field, record, briefly=True) for field in told]
        shown.add_row(Text(printable(key), overflow="fold"), *cells)
    return shown


def card(listing: Listing, key: str, record: Any) -> RenderableType:
    """Return one record, a line for each part."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    shown.add_row(listing.key, Text(printable(key), overflow="fold"))
    for field in listing.fields:
        shown.add_row(field.name.replace("_", " "), _cell(field, record))
    return shown


def rows(headings: tuple[str, ...], found: Iterable[tuple[str, ...]]) -> RenderableType:
    """Return a table of texts, of which the second is a state."""
    shown = _columns(*headings)
    for first, state, *others in found:
        rest = [Text(printable(other), overflow="fold") for other in others]
        shown.add_row(Text(printable(first)), Text(state, style=_STYLES.get(state, "")), *rest)
    return shown


def _columns(*headings: str) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    return shown


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
    """A table that is drawn again and again in its place.

    :param what: what is watched
    :param every: how often it is drawn, in seconds
    """

    def __init__(self, what: str, every: float) -> None:
        self._about = f"{what} every {every:g} s; Ctrl-C ends it"
        self._last: RenderableType = Text("")
        self._live = Live(auto_refresh=False, console=Console(highlight=False))

    def __enter__(self) -> Self:
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
        self._live.update(Group(heading, self._last), refresh=True)


NO_SCREEN: AbstractContextManager[None] = nullcontext()
