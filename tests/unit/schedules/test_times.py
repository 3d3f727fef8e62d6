"""When ticks come: intervals, cron expressions, and the days on which clocks are changed."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from gogoscope import ConfigurationError, cron, interval
from gogoscope.schedules.cron import Cron
from gogoscope.schedules.when import DueTicks, When, moment, walk

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ms(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1)


def shown(when: When, begin: str, end: str) -> list[str]:
    """Return the ticks after a time and until another one, as clocks of the zone show them."""
    ticks = when.due(ms(begin), ms(end), 10_000).newest
    return [moment(tick, when.zone).strftime("%H:%M:%S%z") for tick in ticks]


def test_an_interval_is_aligned_to_the_epoch() -> None:
    assert interval(300).next_ms(1_000) == 300_000
    assert interval(300).next_ms(300_000) == 600_000
    assert interval(timedelta(days=1)).next_ms(ms("2026-03-01T12:00+00:00")) == ms(
        "2026-03-02T00:00+00:00"
    )
    assert interval(0.05).describe() == "every 0.05 s"
    assert interval(1_000_001).describe() == "every 1000001 s"
    assert interval(365_000 * 86_400 - 0.001).describe() == "every 31535999999.999 s"


@settings(deadline=None)
@given(
    period=st.integers(50, 100_000),
    after=st.integers(0, 10**6),
    length=st.integers(-10, 10**6),
    most=st.integers(1, 5),
)
def test_an_interval_computes_what_a_walk_finds(
    period: int, after: int, length: int, most: int
) -> None:
    when = interval(timedelta(milliseconds=period))
    assert when.due(after, after + length, most) == walk(when, after, after + length, most)


@pytest.mark.parametrize("bad", [0, -1, 0.01, 1.0005, float("nan"), float("inf"), "1", None, True])
def test_an_interval_must_be_a_duration(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="interval must be"):
        interval(bad)


@pytest.mark.parametrize("bad", [1e12, timedelta(days=365_001), timedelta.max, 10**30])
def test_an_interval_whose_next_tick_would_be_no_date_is_refused(bad: Any) -> None:
    assert moment(interval(timedelta(days=365_000)).next_ms(0), UTC).year == 2969
    with pytest.raises(ValueError, match="interval must be a thousand years at most, got"):
        interval(bad)


def test_a_cron_expression_is_read_in_its_time_zone() -> None:
    when = cron("0 3 * * mon-fri", tz="Europe/Berlin")
    friday = ms("2026-06-05T03:00+02:00")
    assert when.next_ms(friday - 1) == friday
    assert when.next_ms(friday) == ms("2026-06-08T03:00+02:00")
    assert when.describe() == "cron 0 3 * * mon-fri in Europe/Berlin"
    assert cron("0 3 * * *").next_ms(0) == 3 * 3_600_000
    assert cron("0 3 * * *", tz=timezone(timedelta(hours=2))).next_ms(0) == 3_600_000
    assert cron("*/10 * * * * *").due(0, 60_000, 2) == DueTicks((50_000, 60_000), 6)
    assert cron("@daily", tz=ZoneInfo("Asia/Kolkata")).next_ms(0) == 18.5 * 3_600_000


def test_cron_expressions_are_equal_if_their_ticks_are() -> None:
    assert cron("0  3 * * *") == cron("0 3 * * *")
    assert cron("0 3 * * *") != cron("0 3 * * *", tz="Europe/Berlin")


SPRING = {
    "Europe/Berlin": ("2026-03-28T23:30+00:00", "2026-03-29T02:00+00:00"),
    "America/New_York": ("2026-03-08T05:30+00:00", "2026-03-08T08:00+00:00"),
    "Australia/Lord_Howe": ("2026-10-03T14:00+00:00", "2026-10-03T16:30+00:00"),
}
AUTUMN = {
    "Europe/Berlin": ("2026-10-24T22:30+00:00", "2026-10-25T02:00+00:00"),
    "America/New_York": ("2026-11-01T04:30+00:00", "2026-11-01T07:00+00:00"),
    "Australia/Lord_Howe": ("2026-04-04T13:30+00:00", "2026-04-04T16:00+00:00"),
}


@pytest.mark.parametrize(
    ("expression", "zone", "ticks"),
    [
        ("30 2 * * *", "Europe/Berlin", ["03:00:00+0200"]),
        ("15,45 2 * * *", "Europe/Berlin", ["03:00:00+0200"]),
        ("0 2,3 * * *", "Europe/Berlin", ["03:00:00+0200"]),
        ("*/20 2 * * *", "Europe/Berlin", ["03:00:00+0200"]),
        ("15 30 2 * * *", "Europe/Berlin", ["03:00:00+0200"]),
        ("0 */2 * * *", "Europe/Berlin", ["03:00:00+0200", "04:00:00+0200"]),
        ("0 * * * *", "Europe/Berlin", ["01:00:00+0100", "03:00:00+0200", "04:00:00+0200"]),
        ("30 2 * * *", "America/New_York", ["03:00:00-0400"]),
        ("0 2 * * sun", "America/New_York", ["03:00:00-0400"]),
        ("15 2 * * *", "Australia/Lord_Howe", ["02:30:00+1100"]),
        ("45 2 * * *", "Australia/Lord_Howe", ["02:45:00+1100"]),
        ("0 * * * *", "Australia/Lord_Howe", ["01:00:00+1030", "02:30:00+1100", "03:00:00+1100"]),
    ],
)
def test_times_that_a_change_to_summer_time_skips_tick_once_afterwards(
    expression: str, zone: str, ticks: list[str]
) -> None:
    assert shown(cron(expression, tz=zone), *SPRING[zone])[: len(ticks)] == ticks
    assert len(shown(cron(expression, tz=zone), *SPRING[zone])) in (len(ticks), len(ticks) + 1)


@pytest.mark.parametrize(
    ("expression", "zone", "ticks"),
    [
        ("30 2 * * *", "Europe/Berlin", ["02:30:00+0200"]),
        ("*/20 2 * * *", "Europe/Berlin", ["02:00:00+0200", "02:20:00+0200", "02:40:00+0200"]),
        ("15 30 2 * * *", "Europe/Berlin", ["02:30:15+0200"]),
        ("0 */2 * * *", "Europe/Berlin", ["02:00:00+0200"]),
        ("30 1 * * *", "America/New_York", ["01:30:00-0400"]),
        ("45 1 * * *", "Australia/Lord_Howe", ["01:45:00+1100"]),
        ("15 1 * * *", "Australia/Lord_Howe", ["01:15:00+1100"]),
    ],
)
def test_times_that_a_change_from_summer_time_repeats_tick_once(
    expression: str, zone: str, ticks: list[str]
) -> None:
    assert shown(cron(expression, tz=zone), *AUTUMN[zone])[: len(ticks)] == ticks
    assert len(shown(cron(expression, tz=zone), *AUTUMN[zone])) == len(ticks)


@pytest.mark.parametrize(
    ("expression", "zone", "ticks"),
    [
        (
            "30 * * * *",
            "Europe/Berlin",
            ["01:30:00+0200", "02:30:00+0200", "02:30:00+0100"],
        ),
        ("30 * * * *", "America/New_York", ["01:30:00-0400", "01:30:00-0500"]),
        (
            "45 * * * *",
            "Australia/Lord_Howe",
            ["00:45:00+1100", "01:45:00+1100", "01:45:00+1030"],
        ),
    ],
)
def test_what_ticks_every_hour_ticks_in_the_repeated_hour_too(
    expression: str, zone: str, ticks: list[str]
) -> None:
    found = shown(cron(expression, tz=zone), *AUTUMN[zone])
    assert [tick for tick in found if tick in ticks] == ticks


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago"]


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from(["*/7 1,2 * * *", "45 * * * *", "*/25 * * * *", "0 0 * * sun"]),
    zone=st.sampled_from(ZONES),
    begin=st.sampled_from([*SPRING.values(), *AUTUMN.values()]),
    ahead=st.integers(0, 3 * 3_600_000),
)
def test_a_tick_does_not_depend_on_where_the_search_began(
    expression: str, zone: str, begin: tuple[str, str], ahead: int
) -> None:
    when = cron(expression, tz=zone)
    first, last = ms(begin[0]), ms(begin[1]) + 86_400_000
    ticks = when.due(first, last, 1000).newest
    assert list(ticks) == sorted(set(ticks))
    inside = when.due(first + ahead, last, 1000).newest
    assert list(inside) == [tick for tick in ticks if tick > first + ahead]
    assert when.due(first, last - ahead, 9) == walk(when, first, last - ahead, 9)
    assert when.due(first + ahead, last, 9) == walk(when, first + ahead, last, 9)


@pytest.mark.parametrize("bad", ["", "* * *", "61 * * * *", "0 0 31 2 *", "nonsense", "0 0 * * x"])
def test_an_expression_that_cannot_be_understood_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"expression .*got|expression never matches"):
        cron(bad)


def test_an_expression_must_be_a_text_and_a_time_zone_must_be_known() -> None:
    with pytest.raises(TypeError, match="expression must be a str, got 5 of type int"):
        cron(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tz must be a time zone that this system knows"):
        cron("* * * * *", tz="Mars/Olympus")
    with pytest.raises(TypeError, match="tz must be a time zone like"):
        cron("* * * * *", tz=2)  # type: ignore[arg-type]


class OneOffset(tzinfo):
    """A time zone as pytz has them: another one for each of its offsets."""

    def __init__(self, minutes: int) -> None:
        self.offset = timedelta(minutes=minutes)

    def __str__(self) -> str:
        return "Europe/Berlin"

    def utcoffset(self, at: datetime | None) -> timedelta:
        return self.offset

    def dst(self, at: datetime | None) -> None:
        return None

    def tzname(self, at: datetime | None) -> None:
        return None

    def fromutc(self, at: datetime) -> datetime:
        right = OneOffset(60)
        return (at + right.offset).replace(tzinfo=right)


class Timeless(OneOffset):
    """A time zone that is not finished."""

    def __init__(self) -> None:
        return

    def fromutc(self, at: datetime) -> datetime:
        raise NotImplementedError


def test_a_time_zone_that_does_not_know_all_of_its_offsets_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one time zone for all times.*'Europe/Berlin'"):
        cron("0 3 * * *", tz=OneOffset(53))
    with pytest.raises(ValueError, match="tz must tell the time"):
        cron("0 3 * * *", tz=Timeless())


def test_without_cronsim_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "cronsim":
            raise ImportError(name)
        return find(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match=r"pip install 'gogoscope\[schedules\]'"):
        cron("* * * * *")
    assert interval(1).next_ms(0) == 1_000


@settings(max_examples=150, deadline=None)
@given(
    expression=st.sampled_from(
        [
            "*/7 1,2 * * *",
            "45 * * * *",
            "*/25 * * * *",
            "0 0 * * sun",
            "30 2 L * *",
            "0 */3 29 2 *",
            "15 4 1 * mon#1",
            "0 12 LW * fri",
            "10,50 30 * * * *",
        ]
    ),
    zone=st.sampled_from([*ZONES, "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca"]),
    year=st.sampled_from([1975, 2011, 2024, 2026]),
    after=st.integers(0, 366 * 86_400_000),
    length=st.integers(-1, 120 * 86_400),
    most=st.integers(1, 7),
)
def test_the_ticks_of_a_span_are_counted_as_a_walk_finds_them(
    expression: str, zone: str, year: int, after: int, length: int, most: int
) -> None:
    when = cron(expression, tz=zone)
    after_ms = ms(f"{year}-01-01T00:00+00:00") + after
    until_ms = after_ms + length * 1000
    assert when.due(after_ms, until_ms, most) == walk(when, after_ms, until_ms, most)


class CountedSearch:
    """The search of an expression; counts the times that it has found."""

    def __init__(self, when: Cron) -> None:
        self._search = when._search
        self.found = 0

    def __call__(self, expression: str, after: datetime) -> Iterator[datetime]:
        for shows in self._search(expression, after):
            self.found += 1
            yield shows


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_year_of_ticks_each_second_is_not_searched_tick_by_tick(zone: str) -> None:
    when = cron("* * * * * *", tz=zone)
    search = CountedSearch(when)
    begin, end = ms("2026-01-01T00:00+00:00"), ms("2027-01-01T00:00+00:00")
    due = evolve(when, search=search).due(begin, end, 3)
    assert due == DueTicks((end - 2000, end - 1000, end), 365 * 86_400)
    assert search.found == 0


def test_the_next_tick_in_an_hour_that_is_repeated_is_not_searched_from_its_first_pass_on() -> None:
    when = cron("* * * * * *", tz="Europe/Berlin")
    search = CountedSearch(when)
    after = ms("2026-10-25T01:10:00+00:00")
    assert evolve(when, search=search).next_ms(after) == after + 1000
    assert search.found <= 4
