"""Clocks that a test moves."""

from __future__ import annotations

import time

START_MS = 1_800_000_000_000


class MillisecondClock:
    """A clock that stands still until the test moves it by whole milliseconds.

    It shows half a millisecond more, so that no rounding turns one into another.
    """

    simulated = True

    def __init__(self) -> None:
        self.ms = START_MS

    def wall(self) -> float:
        return (self.ms + 0.5) / 1000

    def elapsed(self) -> float:
        return (self.ms - START_MS) / 1000

    def advance(self, ms: int) -> None:
        self.ms += ms


class WrongClock:
    """The system's clock, wrong by some seconds."""

    def __init__(self, error: float) -> None:
        self.error = error

    def wall(self) -> float:
        return time.time() + self.error

    def elapsed(self) -> float:
        return time.monotonic()
