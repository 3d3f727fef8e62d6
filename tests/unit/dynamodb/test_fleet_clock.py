"""The time that processes share: what answers and items tell of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from gogoscope._core.clock import clock_in_context
from gogoscope_dynamodb.fleet_clock import FleetClock
from tests.support.clocks import START_MS, MillisecondClock


class WallClock:
    """The clock of a process, which is wrong."""

    def __init__(self, here: MillisecondClock, error: float) -> None:
        self._here = here
        self._error = error

    def wall(self) -> float:
        return self._here.wall() + self._error

    def elapsed(self) -> float:
        return self._here.elapsed()


class Process:
    """A process whose clock is wrong, and that asks a server whose clock is right."""

    def __init__(self, here: MillisecondClock, error: float) -> None:
        self._here = here
        self.clock = FleetClock(WallClock(here, error))

    def ask(self, trip_ms: int = 4) -> None:
        sent = self._here.elapsed()
        self._here.advance(trip_ms // 2)
        told = response(self._here.wall())
        self._here.advance(trip_ms - trip_ms // 2)
        self.clock.learn(told, sent)

    def wrong_by(self) -> int:
        return self.clock.now_ms() - self._here.ms


def response(time: float) -> dict[str, Any]:
    date = format_datetime(datetime.fromtimestamp(int(time), UTC), usegmt=True)
    return {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}


@pytest.fixture
def here() -> Iterator[MillisecondClock]:
    here = MillisecondClock()
    token = clock_in_context.set(here)
    yield here
    clock_in_context.reset(token)


def test_one_answer_corrects_a_clock_to_half_a_second(here: MillisecondClock) -> None:
    for error in (-5_000.0, -1.5, 0.0, 1.5, 5_000.0):
        process = Process(here, error)
        assert not process.clock.is_known()
        here.advance(377)
        process.ask()
        assert process.clock.is_known()
        assert abs(process.wrong_by()) <= 505


def test_many_answers_correct_it_to_a_round_trip(here: MillisecondClock) -> None:
    process, chance = Process(here, 1.5), random.Random(1)
    for _ in range(2_000):
        here.advance(chance.randrange(60))
        process.ask()
    assert abs(process.wrong_by()) <= 10


def test_who_sees_a_later_time_goes_along_with_it(here: MillisecondClock) -> None:
    one, other = Process(here, 0), Process(here, 0)
    here.advance(500)  # in the middle of a second, so that nobody knows better
    one.ask()
    here.advance(510)
    other.ask()
    assert other.wrong_by() > one.wrong_by() + 400
    one.clock.see(other.clock.now_ms())
    assert abs(one.wrong_by() - other.wrong_by()) <= 10
    other.clock.see(one.clock.now_ms() - 500)
    assert abs(one.wrong_by() - other.wrong_by()) <= 10


def test_nobody_goes_along_with_a_time_that_the_server_rules_out(here: MillisecondClock) -> None:
    process = Process(here, 0)
    process.ask()
    process.clock.see(here.ms + 3_600_000)
    assert process.wrong_by() <= 1_010
    for _ in range(200):
        here.advance(37)
        process.ask()
    assert process.wrong_by() <= 50


def test_a_wall_clock_that_is_set_changes_nothing_after_an_answer(here: MillisecondClock) -> None:
    process = Process(here, 0)
    process.ask()
    before = process.clock.now_ms()
    process.clock._clock = WallClock(here, 86_400)
    assert process.clock.now_ms() == before


def test_without_a_date_in_answers_the_wall_clock_counts(here: MillisecondClock) -> None:
    process = Process(here, 1.5)
    process.clock.learn({}, here.elapsed())
    process.clock.see(here.ms + 60_000)
    assert process.clock.is_known()
    assert process.wrong_by() == 1_500


def test_a_simulated_clock_is_believed_whatever_answers_say(here: MillisecondClock) -> None:
    clock = MillisecondClock()
    fleet_clock = FleetClock(clock)
    assert fleet_clock.is_known()
    fleet_clock.learn(response(START_MS / 1000 + 1_000), here.elapsed())
    assert fleet_clock.now_ms() == clock.ms
