"""Schedules in a DynamoDB table: ticks are due by the server's time, whatever this machine's clock.

The records are those of any store; only what time it is comes from the answers
(:mod:`gogoscope_dynamodb.fleet_clock`). So a process whose clock is hours ahead runs no tick early,
and one whose clock is behind runs none late. Where a time is written before any answer has told it,
the record is read first.
"""

from __future__ import annotations

from gogoscope.persistence.records.schedules import RecordSchedules
from gogoscope.persistence.schedule_records import ScheduleRecord
from gogoscope_dynamodb.fleet_clock import FleetClock


class Schedules(RecordSchedules):
    """A ``ScheduleProvider`` whose time is the server's."""

    _fleet_clock: FleetClock

    def schedule_now_ms(self) -> int:
        """Return the server's time, as answers have told it, in milliseconds since the epoch."""
        return self._fleet_clock.now_ms()

    async def open_schedule(
        self, name: str, definition: str, next_ms: int | None
    ) -> ScheduleRecord:
        """Note a schedule that is new, or has changed, and return it as it is now."""
        await self._learn_time(name)
        return await super().open_schedule(name, definition, next_ms)

    async def continue_schedule(self, name: str) -> bool:
        """Let a schedule that was paused go on with its next tick from now.

        :returns: ``False`` if there is no such schedule
        """
        await self._learn_time(name)
        return await super().continue_schedule(name)

    async def _learn_time(self, name: str) -> None:
        if not self._fleet_clock.is_known():
            await self.read_schedule(name)
