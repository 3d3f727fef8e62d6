"""The parts of a record as they are shown: to programs, and to people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal

from attrs import Factory, field, frozen

from gogoscope._core.arguments import printable

Kind = Literal["text", "state", "count", "time", "seconds", "object"]
"""How a part is shown. A time is in seconds since the Unix epoch."""


@frozen
class Field:
    """A part of a record.

    :param name: its name in JSON, and its heading
    :param kind: how it is shown
    :param read: takes it out of the record; the attribute of that name if left out
    :param detail: whether it is left out of tables, which people read
    """

    name: str
    kind: Kind = "text"
    read: Callable[[Any], Any] = field(
        default=Factory(lambda self: attrgetter(self.name), takes_self=True)
    )
    detail: bool = False


def in_seconds(attribute: str) -> Callable[[Any], float | None]:
    """Return what reads a time that is kept in milliseconds."""
    read = attrgetter(attribute)

    def seconds_of(record: Any) -> float | None:
        value = read(record)
        return None if value is None else value / 1000

    return seconds_of


def for_programs(kind: Kind, value: Any) -> str:
    """Return one line of a value without tabs; empty for ``None``.

    What cannot be printed, such as a line break, is escaped. A time is ISO 8601 in UTC.
    """
    if value is None:
        return ""
    if kind == "time":
        moment = _moment(value)
        if moment is not None:
            return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if kind == "seconds":
        return f"{value:.3f}"
    return json.dumps(value) if kind == "object" else printable(str(value))


def for_people(kind: Kind, value: Any, *, briefly: bool = False) -> str:
    """Return a value in few words, ``-`` for ``None``; a time is that of the machine's zone.

    :param briefly: whether of a time only its distance is returned
    """
    if value is None:
        return "-"
    if kind == "time":
        moment = _moment(value)
        if moment is not None:
            left = value - time.time()
            told = f"in {span(left)}" if left > 0 else f"{span(-left)} ago"
            return told if briefly else f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({told})"
    if kind == "seconds":
        return span(value) if value > 0 else f"over for {span(-value)}" if value < 0 else "-"
    if kind == "object":
        return ", ".join(
            f"{printable(name)}={printable(str(part))}" for name, part in value.items()
        )
    return printable(str(value))


def span(seconds: float) -> str:
    """Return a duration in two units at most."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"


def _moment(value: float) -> datetime | None:
    """Return a time, ``None`` if there is no such date: anybody may have written it."""
    try:
        return datetime.fromtimestamp(value, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return None
