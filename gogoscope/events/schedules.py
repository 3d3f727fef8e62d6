"""What happens to schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gogoscope.events.event import Event

if TYPE_CHECKING:
    from datetime import datetime


class ScheduleEvent(Event):
    """Something that happened to the schedule ``schedule`` in this process."""

    schedule: str


class TickStarted(ScheduleEvent):
    """The run of the tick ``at`` began here; ``attempt`` is more than 1 if an earlier one died."""

    at: datetime
    attempt: int


class TickEnded(ScheduleEvent):
    """The run of the tick ``at`` ended here after ``seconds``."""

    at: datetime
    seconds: float


class TickFailed(ScheduleEvent):
    """The run of the tick ``at`` failed here; the schedule goes on."""

    at: datetime
    error: Exception


class TickStopped(ScheduleEvent):
    """The run of the tick ``at`` was cancelled here, or lost its lease."""

    at: datetime


class TicksMissed(ScheduleEvent):
    """So many ticks were left out, since nobody could start them in time."""

    count: int


class ScheduleStoreFailed(ScheduleEvent):
    """The store of a schedule failed; no tick starts here until it is back."""

    error: Exception


class ScheduleStoreRecovered(ScheduleEvent):
    """The store of a schedule answers again."""
