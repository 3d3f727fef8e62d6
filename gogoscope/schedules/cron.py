"""Cron expressions in a time zone, and what becomes of their times when its clocks are changed.

The library ``cronsim`` reads the expression and finds the times that match it, on a clock that
nobody changes. What a real one shows is decided here:

- A time that is skipped, since the clock is put forward, ticks once, when that has been done. All
  that are skipped by one change are one tick, and so is a regular one at that very moment.
- A time that is repeated, since the clock is put back, ticks the first time only.
- An expression that matches every hour ticks in the repeated hour as well: it would be silent for
  an hour otherwise.

A tick depends on the expression and the zone alone, and never on where a search began, so that all
processes know the same ones.

After a long time, the ticks that came meanwhile are not searched one by one. Between two changes of
the clock they are counted (:mod:`gogoscope.schedules.wall_times`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import field, frozen

from gogoscope._core.arguments import shown
from gogoscope.exceptions import ConfigurationError
from gogoscope.schedules.wall_times import WallTimes
from gogoscope.schedules.when import EPOCH, DueTicks, moment

Search = Callable[[str, datetime], Iterator[datetime]]

NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

HOURS = 24
DAY_MS = 86_400_000
"""No clock is changed twice in so short a time."""
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)


@frozen
class Cron:
    """The times that match an expression, in a time zone; made by :func:`cron`."""

    expression: str
    zone: tzinfo
    _search: Search = field(eq=False, repr=False)
    _times: WallTimes = field(eq=False, repr=False)

    def describe(self) -> str:
        """Return the definition as a text."""
        return f"cron {self.expression} in {self.zone}"

    def next_ms(self, after_ms: int) -> int | None:
        """Return the first tick after a time; ``None`` if there is none."""
        after = moment(after_ms, self.zone)
        ticks = [self._by_the_wall(after)]
        offset_soon = (after.astimezone(UTC) + _HOUR).astimezone(self.zone).utcoffset()
        if self._every_hour() and (after.fold or after.utcoffset() != offset_soon):
            ticks.append(self._in_the_second_pass(after))
        times = [_since_epoch(tick) for tick in ticks if tick is not None]
        return min(times, default=None)

    def due(self, after_ms: int, until_ms: int, most: int) -> DueTicks:
        """Return the ticks after a time and until another one."""
        parts: list[DueTicks] = []
        for change_ms, forward_ms in self._changes(after_ms, until_ms):
            parts.append(self._count(after_ms, min(change_ms - 1, until_ms), most))
            if forward_ms > 0 and after_ms < change_ms <= until_ms:
                skips = self._skips(change_ms)
                parts.append(DueTicks((change_ms,) if skips else (), int(skips)))
                after_ms = change_ms
            elif forward_ms < 0 and not self._every_hour():
                after_ms = max(after_ms, change_ms - 1 - forward_ms)
            else:
                after_ms = max(after_ms, min(change_ms - 1, until_ms))
        parts.append(self._count(after_ms, until_ms, most))
        newest = tuple(tick for part in parts for tick in part.newest)
        return DueTicks(newest[-most:], sum(part.count for part in parts))

    def _every_hour(self) -> bool:
        return len(self._times.hours) == HOURS

    def _count(self, after_ms: int, until_ms: int, most: int) -> DueTicks:
        """Return the ticks of a span in which the clock is not changed."""
        if after_ms >= until_ms:
            return DueTicks((), 0)
        offset_ms = self._offset_ms(until_ms)
        after, until = _shown(after_ms + offset_ms), _shown(until_ms + offset_ms)
        count = self._times.count(after, until)
        found = islice(self._times.newest_first(until), min(count, most))
        newest = [_since_epoch(tick.replace(tzinfo=UTC)) - offset_ms for tick in found]
        return DueTicks(tuple(reversed(newest)), count)

    def _skips(self, change_ms: int) -> bool:
        """Return whether a change skips ticks, or there is one when it is done."""
        before_ms, then_ms = change_ms - 1, change_ms
        after = _shown(before_ms + self._offset_ms(before_ms))
        return self._times.count(after, _shown(then_ms + self._offset_ms(then_ms))) > 0

    def _changes(self, after_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
        """Return when clocks are put forward, and by how much, from the day before a span on."""
        begin_ms = after_ms - DAY_MS
        while begin_ms < until_ms:
            end_ms = begin_ms + DAY_MS
            before = self._offset_ms(begin_ms)
            if changed := self._offset_ms(end_ms) - before:
                low, high = begin_ms, end_ms
                while high - low > 1:
                    middle = (low + high) // 2
                    if self._offset_ms(middle) == before:
                        low = middle
                    else:
                        high = middle
                yield high, changed
            begin_ms = end_ms

    def _offset_ms(self, time_ms: int) -> int:
        offset = moment(time_ms, self.zone).utcoffset()
        assert offset is not None
        return offset // _MILLISECOND

    def _by_the_wall(self, after: datetime) -> datetime | None:
        """Return the first tick by what a clock on the wall shows, its changes taken into account.

        A time that the clock shows again has had its tick.
        """
        begin = _last_repeated(after) if after.fold else after
        for shows in self._search(self.expression, begin.replace(tzinfo=None)):
            tick = self._after_a_gap(shows.replace(tzinfo=self.zone, fold=0))
            if tick.astimezone(UTC) > after.astimezone(UTC):
                return tick
        return None

    def _in_the_second_pass(self, after: datetime) -> datetime | None:
        """Return the first tick by what a clock on the wall shows once it has been put back."""
        later = after.astimezone(UTC) + _HOUR  # in each hour there is a tick
        offset = later.astimezone(self.zone).utcoffset()
        assert offset is not None
        begin = (later - _HOUR + offset).replace(tzinfo=None)
        for shows in self._search(self.expression, begin):
            tick = shows.replace(tzinfo=self.zone, fold=1)
            if _exists(tick) and tick.astimezone(UTC) > after.astimezone(UTC):
                return tick
        return None

    def _after_a_gap(self, tick: datetime) -> datetime:
        """Return a time, or when the clock has been put forward if it skips that."""
        if _exists(tick):
            return tick
        tick = tick.replace(second=0, microsecond=0)
        while not _exists(tick):
            tick += _MINUTE
        return tick


def cron(expression: str, *, tz: str | tzinfo = "UTC") -> Cron:
    """Return what ticks when an expression matches: ``cron("0 3 * * mon-fri", tz=...)``.

    Five fields are minute, hour, day of the month, month, and day of the week; with six, seconds
    come first. ``@hourly``, ``@daily``, ``@weekly``, ``@monthly`` and ``@yearly`` are allowed.

    A time that a change to summer time skips ticks once afterwards; one that is repeated ticks
    once, unless the expression matches every hour.

    :param expression: as :manpage:`crontab(5)` has it, ``L`` and ``#`` included
    :param tz: the key of a time zone, like ``"Europe/Berlin"``, or a ``tzinfo`` such as a
        ``ZoneInfo``
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if the expression cannot be understood, never matches, or the time zone is
        not known
    :raises ConfigurationError: if ``cronsim`` is not installed
    """
    if not isinstance(expression, str):
        raise TypeError(
            f"expression must be a str, got {shown(expression)} of type {type(expression).__name__}"
        )
    zone = _zone(tz)
    search, times_of = _library()
    text = " ".join(NAMED.get(expression.strip().lower(), expression).split())
    times = times_of(text)
    if next(search(text, datetime(2000, 1, 1)), None) is None:  # noqa: DTZ001 - any zone
        raise ValueError(f"expression never matches: {shown(expression)}")
    return Cron(text, zone, search, times)


def _zone(tz: str | tzinfo) -> tzinfo:
    if isinstance(tz, tzinfo):
        return _whole(tz)
    if not isinstance(tz, str):
        raise TypeError(
            f'tz must be a time zone like "Europe/Berlin" or a tzinfo, got {shown(tz)} of type '
            f"{type(tz).__name__}"
        )
    if tz == "UTC":
        return UTC
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f'tz must be a time zone that this system knows, like "Europe/Berlin", got {shown(tz)};'
            " where the system has no database of time zones, install it with: "
            "pip install 'gogoscope[schedules]'"
        ) from error


def _whole(zone: tzinfo) -> tzinfo:
    """Return a time zone that knows all of its offsets.

    One of pytz knows a single one, and hands out another ``tzinfo`` for each: what is computed with
    the first is wrong by minutes, and never exists.
    """
    try:
        same = EPOCH.astimezone(zone).tzinfo is zone
    except Exception as error:
        raise ValueError(f"tz must tell the time, which {shown(zone)} does not") from error
    if not same:
        raise ValueError(
            f"tz must be one time zone for all times, as a ZoneInfo is, got {shown(zone)} of type "
            f"{type(zone).__name__}; pass its key, like {str(zone)!r}"
        )
    return zone


def _library() -> tuple[Search, Callable[[str], WallTimes]]:
    try:
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 - it is optional
    except ImportError as error:
        raise ConfigurationError(
            "cron expressions need cronsim; install it with: pip install 'gogoscope[schedules]'"
        ) from error

    def times_of(expression: str) -> WallTimes:
        try:
            read = CronSim(expression, EPOCH)
        except CronSimError as error:
            raise ValueError(
                "expression must have five fields (minute, hour, day of the month, month, day of "
                "the week), or six with seconds first, as in '0 3 * * mon-fri', got "
                f"{shown(expression)}: {error}"
            ) from error
        months, day_matches = frozenset(read.months), read.match_day
        return WallTimes(
            frozenset(read.hours),
            frozenset(read.minutes),
            frozenset(read.seconds),
            lambda day: day.month in months and day_matches(day),
        )

    def search(expression: str, after: datetime) -> Iterator[datetime]:
        return CronSim(expression, after)

    return search, times_of


def _exists(tick: datetime) -> bool:
    """Return whether a clock ever shows a time."""
    shown_then = tick.astimezone(UTC).astimezone(tick.tzinfo)
    return shown_then.replace(tzinfo=None) == tick.replace(tzinfo=None)


def _last_repeated(after: datetime) -> datetime:
    """Return the last time that a clock shows again, of those that it shows now."""
    low, high = after.replace(microsecond=0), after + _DAY
    while high - low > _SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle.replace(fold=0).utcoffset() == middle.replace(fold=1).utcoffset():
            high = middle
        else:
            low = middle
    return low


def _shown(ms: int) -> datetime:
    return EPOCH.replace(tzinfo=None) + timedelta(milliseconds=ms)


def _since_epoch(tick: datetime) -> int:
    return (tick.astimezone(UTC) - EPOCH) // _MILLISECOND
