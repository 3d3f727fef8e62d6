"""The options of ``s.schedule``, checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Literal, get_args

from attrs import frozen

from gogoscope._core.arguments import check_count, check_observer, shown
from gogoscope.events import OnError
from gogoscope.persistence.validation import check_key, check_lease
from gogoscope.schedules.tick import Tick
from gogoscope.schedules.when import When, check_when

Missed = Literal["once", "skip", "all"]
"""What is done about ticks that nobody could start in time."""
Scheduled = Callable[[Tick], Awaitable[object]]
"""A function that a schedule runs."""


@frozen(eq=False)
class ScheduleOptions:
    """The options of ``s.schedule``, which explains them, checked."""

    name: str
    when: When
    fn: Scheduled
    missed: Missed
    max_missed: int
    lease: float
    retries: int
    on_error: OnError | None


def schedule_options(
    name: str,
    when: When,
    fn: Scheduled,
    missed: Missed,
    max_missed: int,
    lease: float | timedelta,
    retries: int,
    on_error: OnError | None,
) -> ScheduleOptions:
    """Return the options of a schedule.

    :raises TypeError: if one is of the wrong type
    :raises ValueError: if one is out of range
    """
    allowed = get_args(Missed)
    if missed not in allowed:
        listing = ", ".join(map(repr, allowed))
        raise ValueError(f"missed must be one of {listing}, got {shown(missed)}")
    check_observer("on_error", on_error)
    return ScheduleOptions(
        name=check_key(name, "name"),
        when=check_when(when),
        fn=fn,
        missed=missed,
        max_missed=check_count("max_missed", max_missed),
        lease=check_lease(lease, "lease"),
        retries=check_count("retries", retries, 0),
        on_error=on_error,
    )
