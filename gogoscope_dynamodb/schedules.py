"""Schedules in a DynamoDB table: ticks are due by the server's time, whatever this machine's clock.

The records are those of any store; only what time it is comes from the answers
(:mod:`gogoscope_dynamodb.fleet_clock`). So a process whose clock is hours ahead runs no tick early,
and one whose clock is behind runs none late. A change reads the record first if no answer has told
the time yet (:meth:`~gogoscope.persistence.CompareAndSwap.knows_the_time`).
"""

from __future__ import annotations

from gogoscope.persistence.records.schedules import RecordSchedules
from gogoscope_dynamodb.fleet_clock import FleetClock


class Schedules(RecordSchedules):
    """A ``ScheduleProvider`` whose time is the server's."""

    _fleet_clock: FleetClock

    def schedule_now_ms(self) -> int:
        """Return the server's time, as answers have told it, in milliseconds since the epoch."""
        return self._fleet_clock.now_ms()
