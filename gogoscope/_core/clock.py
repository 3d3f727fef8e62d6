"""The clocks that everything here reads; a test may replace them.

:func:`monotonic` is the clock of this process: its deadlines use it. The wall clock is for times
that other machines must understand. ``elapsed`` measures how long something lasted from any thread,
whatever becomes of the wall clock meanwhile. Only what an event loop is told to wait for is on the
event loop's own clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

from gogoscope._core.arguments import shown


class Clock(Protocol):
    """The clock of a store; any thread may read it."""

    def wall(self) -> float:
        """Return the seconds since the Unix epoch; the clock may be set forward or back."""
        ...

    def elapsed(self) -> float:
        """Return the seconds of a clock that is never set; only their differences mean anything.

        It goes on while the machine is suspended, if the system has such a clock.
        """
        ...


def check_clock(clock: Clock) -> Clock:
    """Return a clock that is one.

    :raises TypeError: naming the argument
    """
    if not (callable(getattr(clock, "wall", None)) and callable(getattr(clock, "elapsed", None))):
        raise TypeError(
            f"clock must be an object with wall() and elapsed(), got {shown(clock)} of type "
            f"{type(clock).__name__}"
        )
    return clock


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

    def __repr__(self) -> str:
        return "<the system's clock>"


class _CurrentClock:
    def __repr__(self) -> str:
        return f"<the current clock, now {clock_here()!r}>"

    def wall(self) -> float:
        return clock_here().wall()

    def elapsed(self) -> float:
        return clock_here().elapsed()


_SYSTEM: Clock = _SystemClock()

clock_in_context: ContextVar[Clock] = ContextVar("clock", default=_SYSTEM)
"""The system's clock, unless a test runs the current code in virtual time."""

clock_here = clock_in_context.get

current_clock: Clock = _CurrentClock()
"""The clock of the context in which it is read; the default of every store."""


def monotonic() -> float:
    """Return the seconds of a clock that is never set; only their differences mean anything.

    It is one clock for the whole process, in every thread and event loop. trio's own clock begins
    anew with each run, so a time of one run means nothing in another.
    """
    return clock_here().elapsed()
