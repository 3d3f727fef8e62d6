"""The clocks that everything here reads, behind one seam that a test may replace.

:func:`monotonic` is the clock of the event loop: deadlines of this process use it. The wall clock
is for times that other machines must understand. ``elapsed`` measures how long something lasted
from any thread, whatever becomes of the wall clock meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

import anyio


class Clock(Protocol):
    """What a store tells the time by; any thread may read it."""

    def wall(self) -> float:
        """Return the seconds since the Unix epoch; the clock may be set forward or back."""
        ...

    def elapsed(self) -> float:
        """Return the seconds of a clock that is never set; only differences of it mean anything.

        It goes on while the machine is suspended, where the system has such a clock.
        """
        ...


def _steady() -> Callable[[], float]:
    # On Linux CLOCK_MONOTONIC stands still while the machine is suspended; on macOS it does not.
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        clock_id: int | None = getattr(time, name, None)
        if clock_id is not None:
            return lambda: time.clock_gettime(clock_id)
    return time.monotonic


class _SystemClock:
    wall = staticmethod(time.time)
    elapsed = staticmethod(_steady())


class _CurrentClock:
    def wall(self) -> float:
        return clock_here().wall()

    def elapsed(self) -> float:
        return clock_here().elapsed()


_SYSTEM: Clock = _SystemClock()

clock_in_context: ContextVar[Clock] = ContextVar("clock", default=_SYSTEM)
"""The system's clock, unless a test runs the current code in virtual time."""

clock_here = clock_in_context.get

current_clock: Clock = _CurrentClock()
"""The clock in the context of whoever reads it; what a store uses unless it is told another."""


def monotonic() -> float:
    """Return the current event loop's clock in seconds; only differences of it mean anything."""
    return anyio.current_time()
