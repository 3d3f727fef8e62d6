"""Where the current code runs, as far as events tell it.

The variable is that of :mod:`gogoscope._core.context`, which knows more of what is in it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from gogoscope.events import Event

current: ContextVar[Any] = ContextVar("current", default=None)
"""The innermost task, or body of a scope, in which the code runs; ``None`` outside of all."""


def number_here() -> int:
    """Return the number of the task or the body that the code runs in; 0 outside of all."""
    frame = current.get()
    number: int = 0 if frame is None else frame._number
    return number


def placed(event: Event) -> Event:
    """Fill in what an event that was just made happened inside of, if its maker did not say."""
    if "parent" not in event.__dict__:
        event.__dict__["parent"] = number_here()
    return event
