"""Whether the wall clock of this process may judge the leases of others.

A lease is over when its end is past by the clock of whoever wants the lock. A clock that is wrong
would take locks that are held. So two things are compared with it: the steady clock of the process,
which shows when it was set, and the time of DynamoDB's answers, which shows when it was wrong from
the start. While one of them says that it is wrong, a waiter only takes over what it has watched for
a whole lease. Before the first answer nobody knows, so the first claim of a store trusts nothing.

What this process writes for the others to judge goes by the latest time that its clock has shown,
and by the steady clock from there. So a clock that is set back ends no lease before its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from gogoscope.persistence import Clock, ClockSteps

LARGEST_ERROR = 1.5
DATE_STEP = 1.0
"""The time of an answer is in whole seconds, rounded down."""


class Trust:
    """What is known of a clock.

    :param clock: the clock; one of a test that is ``simulated`` shows no time of the world
    """

    # _right: whether it agreed with the last answer that told a time; None before there was one.
    # _ahead: how far the latest time is ahead of the steady clock, in seconds.

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps = ClockSteps(clock)
        self._right: bool | None = None
        self._ahead = self._offset()

    def given(self) -> bool:
        """Return whether the clock may judge leases."""
        right = True if getattr(self._clock, "simulated", False) else self._right
        return not self._steps.stepped() and right is True

    def compare(self, response: Mapping[str, Any]) -> None:
        """Compare the clock with the time of an answer, which was received just now."""
        told = date_of(response)
        if told is not None:
            ahead = self._clock.wall() - told.timestamp()
            self._right = -LARGEST_ERROR <= ahead <= LARGEST_ERROR + DATE_STEP
            if self._right and self._ahead - self._offset() > LARGEST_ERROR + DATE_STEP:
                self._ahead = self._offset()  # it was wrong then, and is right now
        elif self._right is None:
            self._right = True

    def latest_ms(self) -> int:
        """Return the latest time that the clock can be said to show, in milliseconds."""
        self._ahead = max(self._ahead, self._offset())
        return int((self._clock.elapsed() + self._ahead) * 1000)

    def _offset(self) -> float:
        return self._clock.wall() - self._clock.elapsed()


def date_of(response: Mapping[str, Any]) -> datetime | None:
    """Return the server's time in an answer, in whole seconds; ``None`` if it does not tell it."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"])
    except (KeyError, TypeError, ValueError):
        return None
