"""Which ticks are due: found however long ago the last one was, at the cost of those that came."""

from __future__ import annotations

from datetime import tzinfo

import pytest

from gogoscope import cron, interval
from gogoscope.schedules.due import _due
from gogoscope.schedules.when import DueTicks, When

pytestmark = pytest.mark.anyio

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000


class Counting:
    """Counts what is searched for."""

    def __init__(self, when: When) -> None:
        self.when = when
        self.searches = 0

    @property
    def zone(self) -> tzinfo:
        return self.when.zone

    def describe(self) -> str:
        return self.when.describe()

    def next_ms(self, after_ms: int) -> int | None:
        self.searches += 1
        return self.when.next_ms(after_ms)

    def due(self, after_ms: int, until_ms: int, most: int) -> DueTicks:
        self.searches += 1
        return self.when.due(after_ms, until_ms, most)


@pytest.mark.parametrize("days", [0.5, 364, 20_000])
async def test_a_tick_that_is_rare_is_found_without_a_look_at_each_hour(days: float) -> None:
    yearly = Counting(cron("0 0 1 1 *"))
    after_ms = NOW_MS - int(days * DAY_MS)
    due = await _due(yearly, after_ms, NOW_MS, 100)
    assert due == yearly.when.due(after_ms, NOW_MS, 100)
    assert yearly.searches <= 2 * due.count + 1


@pytest.mark.parametrize("when", [interval(600), cron("*/10 * * * *"), cron("7 3 * * *")])
@pytest.mark.parametrize("most", [1, 3])
async def test_ticks_of_many_hours_are_those_of_the_whole_span(when: When, most: int) -> None:
    after_ms = NOW_MS - 3 * DAY_MS - 1
    assert await _due(when, after_ms, NOW_MS, most) == when.due(after_ms, NOW_MS, most)
