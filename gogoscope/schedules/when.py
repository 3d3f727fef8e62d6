"""When the ticks of a schedule come: what ``s.schedule`` asks for that, and plain intervals.

Every process computes the same times, since they depend on nothing but the definition. Times are in
whole milliseconds since the Unix epoch, as the store has them.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from attrs import frozen

from gogoscope._core.durations import seconds

SHORTEST_MS = 50
"""The shortest interval: each tick is two writes to the store."""
LONGEST_MS = 1000 * 365 * 86_400_000
"""The longest interval: the next tick must be a date."""


@frozen
class DueTicks:
    """The ticks of a span of time: the newest of them, the oldest first, and how many there are."""

    newest: tuple[int, ...]
    count: int


class When(Protocol):
    """When the ticks of a schedule come; :func:`interval` and :func:`cron` return one."""

    @property
    def zone(self) -> tzinfo:
        """The time zone in which a function is told the time of its tick."""
        ...

    def describe(self) -> str:
        """Return a text of one line that is the same for the same ticks, in every process."""
        ...

    def next_ms(self, after_ms: int) -> int | None:
        """Return the first tick after a time; ``None`` if there is none."""
        ...

    def due(self, after_ms: int, until_ms: int, most: int) -> DueTicks:
        """Return the ticks after a time and until another one.

        :param most: how many of the newest are wanted
        """
        ...


@frozen
class Interval:
    """A tick each so many milliseconds, counted from the epoch; made by :func:`interval`."""

    period_ms: int

    @property
    def zone(self) -> tzinfo:
        """UTC."""
        return UTC

    def describe(self) -> str:
        """Return the definition as a text."""
        return f"every {self.period_ms / 1000:.15g} s"  # all digits, or two may say the same

    def next_ms(self, after_ms: int) -> int:
        """Return the first tick after a time."""
        return (after_ms // self.period_ms + 1) * self.period_ms

    def due(self, after_ms: int, until_ms: int, most: int) -> DueTicks:
        """Return the ticks after a time and until another one."""
        first, last = after_ms // self.period_ms + 1, until_ms // self.period_ms
        count = max(0, last - first + 1)
        newest = range(last - min(count, most) + 1, last + 1)
        return DueTicks(tuple(number * self.period_ms for number in newest), count)


def interval(seconds_between: float | timedelta, /) -> Interval:
    """Return what ticks each so many seconds, aligned to the Unix epoch: ``interval(300)``.

    So all processes tick at the same times: an interval of an hour ticks at each full hour of UTC,
    and one of a day at midnight of UTC.

    :param seconds_between: seconds from one tick to the next, or a ``timedelta``; in whole
        milliseconds, 0.05 at least, a thousand years at most
    :raises TypeError: if it is no duration
    :raises ValueError: if it is out of range
    """
    period = seconds("interval", seconds_between)
    period_ms = round(period * 1000)
    if period_ms > LONGEST_MS:
        raise ValueError(f"interval must be a thousand years at most, got {seconds_between!r}")
    if period_ms < SHORTEST_MS or not math.isclose(period_ms, period * 1000, abs_tol=1e-6):
        raise ValueError(
            "interval must be a whole number of milliseconds, 0.05 seconds at least, "
            f"got {seconds_between!r}"
        )
    return Interval(period_ms)


def check_when(when: When) -> When:
    """Return what says when ticks come, if it does.

    :raises TypeError: showing what to write
    """
    if not all(callable(getattr(when, name, None)) for name in ("describe", "next_ms", "due")):
        raise TypeError(
            'when must be interval(seconds) or cron("0 3 * * *", tz="Europe/Berlin"), '
            f"got {when!r} of type {type(when).__name__}"
        )
    return when


def walk(when: When, after_ms: int, until_ms: int, most: int) -> DueTicks:
    """Return the ticks of a span of time, from one to the next."""
    newest: deque[int] = deque(maxlen=most)
    count = 0
    tick = when.next_ms(after_ms)
    while tick is not None and tick <= until_ms:
        newest.append(tick)
        count += 1
        tick = when.next_ms(tick)
    return DueTicks(tuple(newest), count)


def moment(time_ms: int, zone: tzinfo) -> datetime:
    """Return a time as an aware ``datetime``."""
    return (EPOCH + timedelta(milliseconds=time_ms)).astimezone(zone)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
