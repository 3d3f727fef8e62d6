"""The clocks that everything here reads; a test may replace them.

:func:`monotonic` is the clock of this process: its deadlines use it. The wall clock is for times
that other machines must understand. ``elapsed`` measures how long something lasted from any thread,
whatever becomes of the wall clock meanwhile. Only what an event loop is told to wait for is on the
event loop's own clock.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Protocol

from gogoscope._core.arguments import shown


class Clock(Protocol):
    """The clock of a store; any thread may read it.

    One of a test that shows another time than that of the world has an attribute ``simulated`` that
    is true: no server's time is compared with it.
    """

    def wall(self) -> float:
        """Return the seconds since the Unix epoch; the clock may be set forward or back."""
        ...

    def elapsed(self) -> float:
        """Return the seconds of a clock that is never set; only their differences mean anything.

        It goes on while the machine is suspended, if the system has such a clock. Stores of one
        machine that share data compare these times, so their clocks count from the same beginning.
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


def timeline_of(clock: Clock) -> str:
    """Return what ``elapsed()`` of a clock counts from: its ``timeline``, if it has one.

    Times of one timeline can be compared, whichever process of the machine has measured them. All
    clocks that name none share one.
    """
    return str(getattr(clock, "timeline", "unnamed"))


def _boot() -> str:
    """Name the boot of this machine, and the namespace of its clock, if the system names them."""
    found = ["boot"]
    # Without pathlib, which takes longer to load than all of this.
    name = "/proc/sys/kernel/random/boot_id"
    with suppress(OSError), open(name, encoding="ascii") as boot:  # noqa: PTH123
        found.append(boot.read().strip())
    with suppress(OSError):
        found.append(os.readlink("/proc/self/ns/time"))  # noqa: PTH115
    return " ".join(found)


def _steady() -> Callable[[], float]:
    # On Linux CLOCK_MONOTONIC stands still while the machine is suspended; on macOS it does not.
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        clock_id: int | None = getattr(time, name, None)
        if clock_id is not None:
            return functools.partial(time.clock_gettime, clock_id)
    return time.monotonic


class _SystemClock:
    wall = staticmethod(time.time)
    elapsed = staticmethod(_steady())

    @functools.cached_property
    def timeline(self) -> str:
        return _boot()

    def __repr__(self) -> str:
        return "<the system's clock>"


class _CurrentClock:
    @property
    def simulated(self) -> bool:
        return bool(getattr(clock_here(), "simulated", False))

    def __repr__(self) -> str:
        return f"<the current clock, now {clock_here()!r}>"

    def wall(self) -> float:
        return clock_here().wall()

    def elapsed(self) -> float:
        return clock_here().elapsed()

    @property
    def timeline(self) -> str:
        return timeline_of(clock_here())


_SYSTEM: Clock = _SystemClock()

clock_in_context: ContextVar[Clock] = ContextVar("clock", default=_SYSTEM)
"""The system's clock, unless a test runs the current code in virtual time."""

clock_here = clock_in_context.get

current_clock: Clock = _CurrentClock()
"""The clock of the context in which it is read; the default of every store."""


def resolved(clock: Clock) -> Clock:
    """Return the clock that a clock stands for here, to read it more than once."""
    return clock_here() if clock is current_clock else clock


STEP_SECONDS = 1.5
"""By how much a wall clock has to leave the steady one until it counts as set."""


class ClockSteps:
    """Tells whether the wall clock of a clock was set since it was first asked for that."""

    # _offset: how far the wall clock was from the steady one then.

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None

    def stepped(self) -> bool:
        """Return whether it was set, so that nobody knows whether it is right."""
        offset = self._clock.wall() - self._clock.elapsed()
        if self._offset is None:
            self._offset = offset
        return abs(offset - self._offset) > STEP_SECONDS


def monotonic() -> float:
    """Return the seconds of a clock that is never set; only their differences mean anything.

    It is one clock for the whole process, in every thread and event loop. trio's own clock begins
    anew with each run, so a time of one run means nothing in another.
    """
    return clock_here().elapsed()
