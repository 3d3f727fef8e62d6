"""Schedules over any place for records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, describe_holder
from gogoscope.persistence.records.place import RecordCapability, json_kind
from gogoscope.persistence.rules import schedules as schedule_rules
from gogoscope.persistence.schedule_records import (
    Schedule,
    ScheduleRecord,
    ScheduleReply,
    TickEnd,
    Wanted,
)

P = ParamSpec("P")
Answer = TypeVar("Answer")

SCHEDULES = json_kind(
    "schedule",
    ScheduleRecord,
    schedule_rules.purge_at_ms,
    awaited=schedule_rules.asks_to_look,
)


class RecordSchedules(RecordCapability):
    """A ``ScheduleProvider``: every method is one transaction on one record."""

    def schedule_now_ms(self) -> int:
        """Return the time by which ticks are due, in milliseconds since the Unix epoch."""
        return self._records.now_ms()

    async def open_schedule(
        self, name: str, definition: str, next_ms: int | None
    ) -> ScheduleRecord:
        """Note a schedule that is new, or has changed, and return it as it is now."""
        return await self._change_now(name, schedule_rules.open_schedule, definition, next_ms)

    async def claim_tick(
        self, name: str, claim: LockClaim, wanted: Wanted, *, seen: LockRecord | None = None
    ) -> ScheduleReply:
        """Begin a run in one write, or learn from the refusal what there is to do instead."""
        return await self._claim_lease(
            SCHEDULES,
            name,
            schedule_rules.claim,
            claim,
            wanted,
            due_ms=self.schedule_now_ms(),
            seen=seen,
        )

    async def renew_tick(
        self, name: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last until ``until_ms``, or ``lease_ms`` from now if later."""
        return await self._change_lease(
            SCHEDULES, name, schedule_rules.renew, nonce, version, lease_ms, until_ms
        )

    async def end_tick(self, name: str, nonce: str, how: TickEnd, error: str | None = None) -> bool:
        """Note how the run of ``nonce`` ended; ``False`` if it was taken over."""
        return await self._change_now(name, schedule_rules.end, nonce, how, error)

    async def read_schedule(self, name: str) -> ScheduleRecord | None:
        """Return a schedule as the newest completed write left it; ``None`` if there is none."""
        return await self._records.read(SCHEDULES, self._full_key(name))

    def tick_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        return self._left_ms(lease)

    async def pause_schedule(self, name: str) -> bool:
        """Let no tick of a schedule start, in the whole fleet, until it is continued.

        A run in progress goes on. Nothing starts once this has returned.

        :returns: ``False`` if there is no such schedule
        """
        return await self._change_now(name, schedule_rules.pause)

    async def continue_schedule(self, name: str) -> bool:
        """Let a schedule that was paused go on with its next tick from now.

        :returns: ``False`` if there is no such schedule
        """
        return await self._change_now(name, schedule_rules.unpause)

    async def trigger_schedule(self, name: str) -> bool:
        """Have a schedule run once more, besides its ticks, even if it is paused.

        It runs as soon as a process looks, which is at once where the store tells of changes, and
        no run is in progress. Before it has begun, asking
        again changes nothing.

        :returns: ``False`` if there is no such schedule
        """
        return await self._change_now(name, schedule_rules.trigger)

    async def forget_schedule(self, name: str) -> bool:
        """Forget a schedule that no process has any more; one that runs begins anew.

        :returns: ``False`` if there is no such schedule
        """
        forgotten = await self._change_or_remove(
            SCHEDULES, name, lambda record, now_ms: (None, record is not None)
        )
        return forgotten is not False

    async def schedules(self, pattern: str | None = None) -> dict[str, Schedule]:
        """Return the schedules that are known, by their names; one that is corrupt is left out.

        :param pattern: a case-sensitive glob over whole names: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        found = await self._listed(SCHEDULES, pattern)
        return {name: self._describe_schedule(record) for name, record in found.items()}

    def _change_now(
        self,
        name: str,
        rule: Callable[Concatenate[ScheduleRecord | None, int, P], tuple[Any, Answer]],
        *args: P.args,
        **options: P.kwargs,
    ) -> Awaitable[Answer]:
        """Change a schedule by a rule, at the time by which its ticks are due."""

        def change(record: ScheduleRecord | None, now_ms: int) -> tuple[Any, Answer]:
            return rule(record, self.schedule_now_ms(), *args, **options)

        return self._records.transact(SCHEDULES, self._full_key(name), change)

    def _describe_schedule(self, record: ScheduleRecord) -> Schedule:
        holder = describe_holder(record.lease, self.tick_left_ms)
        ended = record.state not in ("new", "running")
        return Schedule(
            state=self._schedule_is(record),
            definition=record.definition,
            next=_seconds(record.next_ms),
            last=_seconds(record.at_ms),
            started_at=_seconds(record.started_ms),
            ended_at=_seconds(record.ended_ms),
            outcome=record.state if ended else None,  # type: ignore[arg-type]
            error=record.error,
            missed=record.missed,
            paused_at=_seconds(record.paused_ms),
            triggered_at=_seconds(record.trigger_ms),
            owner=None if holder is None else holder.owner,
            host=None if holder is None else holder.host,
            pid=None if holder is None else holder.pid,
            fencing_token=record.lease.fencing_token,
        )

    def _schedule_is(
        self, record: ScheduleRecord
    ) -> Literal["waiting", "running", "crashed", "paused"]:
        if record.lease.nonce is not None:
            crashed = self.tick_left_ms(record.lease) < -self._skew_now_ms()
            return "crashed" if crashed else "running"
        return "waiting" if record.paused_ms is None else "paused"


def _seconds(time_ms: int | None) -> float | None:
    return None if time_ms is None else time_ms / 1000
