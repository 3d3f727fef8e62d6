"""What a scheduled function is told of its tick."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen


@frozen
class Tick:
    """A time at which a schedule runs, as the scheduled function gets it.

    :param schedule: the name of the schedule
    :param at: the time of the tick, which is the same whenever it runs, in the schedule's time zone
    :param missed: how many ticks before it were left out, since nobody could start them in time
    :param fencing_token: higher than that of every earlier run of the schedule: pass it with each
        outside write, so that what is written to can refuse an older one
    :param attempt: 1, or more if this tick was started before and its process died
    :param triggered: whether a person asked for this run, which is besides the ticks
    """

    schedule: str
    at: datetime
    missed: int
    fencing_token: int
    attempt: int = 1
    triggered: bool = False
