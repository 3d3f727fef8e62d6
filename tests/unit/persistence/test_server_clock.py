"""The clock of a server is known from its answers, up to a bound that is always true."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from gogoscope._core.clock import clock_in_context
from gogoscope.exceptions import PersistenceError
from gogoscope.persistence.server_clock import DRIFT, ServerClock
from tests.support.clocks import START_MS, MillisecondClock


class Line:
    """A server with a clock of its own, behind a line with delays."""

    def __init__(self) -> None:
        self.here = MillisecondClock()
        self.ahead_ms = 5000
        self.known = ServerClock()

    def server_ms(self) -> int:
        return START_MS + round(self.here.elapsed() * 1000) + self.ahead_ms

    def ask(self, there_ms: int, back_ms: int) -> None:
        sent = self.here.elapsed()
        self.here.advance(there_ms)
        shown = self.server_ms()
        self.here.advance(back_ms)
        self.known.learn(shown, sent, self.here.elapsed())

    def wrong_by(self) -> int:
        return abs(self.known.now_ms() - self.server_ms())


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    token = clock_in_context.set(line.here)
    yield line
    clock_in_context.reset(token)


def test_one_answer_tells_the_time_up_to_half_a_round_trip(line: Line) -> None:
    line.ask(80, 20)
    assert line.wrong_by() <= line.known.error_ms() <= 51


def test_a_slow_answer_spoils_nothing(line: Line) -> None:
    line.ask(1, 1)
    line.ask(5, 3000)
    assert line.wrong_by() <= line.known.error_ms() <= 3


def test_the_bound_is_true_whatever_the_delays(line: Line) -> None:
    chance = random.Random(1)
    for _ in range(500):
        line.ask(chance.randrange(300), chance.randrange(300))
        assert line.wrong_by() <= line.known.error_ms()
    assert line.known.error_ms() < 40


def test_the_bound_grows_while_nobody_asks(line: Line) -> None:
    line.ask(1, 1)
    line.here.advance(3_600_000)
    assert line.known.error_ms() >= 3_600_000 * DRIFT


@pytest.mark.parametrize("step_ms", [60_000, -60_000])
def test_a_server_whose_clock_was_set_is_believed_at_once(line: Line, step_ms: int) -> None:
    line.ask(1, 1)
    line.ahead_ms += step_ms
    assert not line.known.was_set()
    line.ask(3, 3)
    assert line.wrong_by() <= line.known.error_ms() <= 5
    line.ask(1, 1)
    assert line.known.was_set()


def test_a_server_whose_clock_is_slewed_was_not_set(line: Line) -> None:
    for _ in range(100):
        line.here.advance(1000)
        line.ahead_ms += 5
        line.ask(1, 1)
    assert line.wrong_by() <= line.known.error_ms() <= 5
    assert not line.known.was_set()


def test_before_any_answer_there_is_no_time() -> None:
    known = ServerClock()
    with pytest.raises(PersistenceError, match="not open"):
        known.now_ms()
    with pytest.raises(PersistenceError, match="not open"):
        known.error_ms()
