"""The times that match a cron expression on a clock that nobody changes, counted without a walk.

On each day that matches, the same times of day do. So the ticks of a span are counted by its days:
that of a year costs the same whether there is one tick a day or one a second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta

from attrs import field, frozen

_DAY = timedelta(days=1)


def _ordered(numbers: frozenset[int]) -> tuple[int, ...]:
    return tuple(sorted(numbers))


@frozen
class WallTimes:
    """The times of an expression.

    :param hours: which hours of a day match, and which ``minutes`` and ``seconds``
    :param on: returns whether a date matches
    """

    hours: tuple[int, ...] = field(converter=_ordered)
    minutes: tuple[int, ...] = field(converter=_ordered)
    seconds: tuple[int, ...] = field(converter=_ordered)
    on: Callable[[date], bool]

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many times lie after one and until another, both without a time zone."""
        day, last, days = after.date(), until.date(), 0
        while day < last:
            days += self.on(day)
            day += _DAY
        a_day = len(self.hours) * len(self.minutes) * len(self.seconds)
        return days * a_day + self._until(until) - self._until(after)

    def newest_first(self, until: datetime) -> Iterator[datetime]:
        """Return the times until one, from the newest to the oldest, without an end."""
        day = until.date()
        while True:
            if self.on(day):
                for tick in self._backwards(day):
                    if tick <= until:
                        yield tick
            day -= _DAY

    def _backwards(self, day: date) -> Iterator[datetime]:
        for hour in reversed(self.hours):
            for minute in reversed(self.minutes):
                for second in reversed(self.seconds):
                    yield datetime.combine(day, time(hour, minute, second))

    def _until(self, moment: datetime) -> int:
        """Return how many times of its day come until a moment."""
        if not self.on(moment.date()):
            return 0
        hours, minutes, seconds = self.hours, self.minutes, self.seconds
        before = bisect_right(hours, moment.hour - 1)
        count = before * len(minutes) * len(seconds)
        if moment.hour in hours:
            before = bisect_right(minutes, moment.minute - 1)
            count += before * len(seconds)
            if moment.minute in minutes:
                count += bisect_right(seconds, moment.second)
        return count
