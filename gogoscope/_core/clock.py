"""The two clocks that everything here reads, behind one seam.

Deadlines of this process use the monotonic clock of the event loop, which a test may replace by a
virtual one. The wall clock is only for times that other machines must understand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

import anyio

wall_clock: ContextVar[Callable[[], float]] = ContextVar("wall_clock", default=time.time)


def monotonic() -> float:
    """Return the current event loop's clock in seconds; only differences of it mean anything."""
    return anyio.current_time()


def wall_time() -> float:
    """Return the seconds since the Unix epoch."""
    return wall_clock.get()()
