"""The two clocks that everything here reads, behind one seam.

Deadlines of this process use the monotonic clock of the event loop, which a test may replace by a
virtual one. The wall clock is only for times that other machines must understand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

import anyio

wall_clock: ContextVar[Callable[[], float]] = ContextVar("wall_clock", default=time.time)


def monotonic() -> float:
    """Return the current event loop's clock in seconds; only differences of it mean anything."""
    return anyio.current_time()


def wall_time() -> float:
    """Return the seconds since the Unix epoch."""
    return wall_clock.get()()


class Clock(Protocol):
    """What a store and its tests tell the time by; every thread may read it."""

    def wall(self) -> float:
        """Return the seconds since the Unix epoch; somebody may set it forward or back."""
        ...

    def elapsed(self) -> float:
        """Return the seconds of a clock that is never set; only differences of it mean anything.

        It goes on while the machine is suspended, where the system has such a clock.
        """
        ...


class _CurrentClock:
    """The clock of whoever reads it: the system's, unless a test runs in virtual time."""

    def wall(self) -> float:
        return wall_clock.get()()

    def elapsed(self) -> float:
        return time.monotonic()


current_clock: Clock = _CurrentClock()
"""The clock of whoever reads it: the system's, unless a test runs in virtual time."""
