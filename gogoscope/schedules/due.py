"""What a schedule is to run now, as its record says it.

A run that died is begun again before anything else, or the ticks after it would take its place in
the record. Then comes what a person triggered, then the ticks that are due.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from gogoscope._core.cancellation import checkpoint
from gogoscope.persistence.schedule_records import ScheduleRecord, Wanted
from gogoscope.schedules.options import ScheduleOptions
from gogoscope.schedules.when import DueTicks, When

AT_A_TIME_MS = 30 * 86_400_000
"""Of how many milliseconds the ticks are counted before other tasks go on."""


async def find_wanted(
    options: ScheduleOptions, record: ScheduleRecord, now_ms: int
) -> Wanted | None:
    """Return what is to be run now, if nobody runs; ``None`` if nothing is."""
    next_ms = options.when.next_ms(max(now_ms, record.after_ms))
    paused = record.paused_ms is not None
    if (
        record.at_ms is not None
        and record.may_start_again(options.retries)
        and (not paused or record.trigger_ms is not None)
    ):
        return _wanted("again", record.at_ms, record, record.missed, next_ms, options)
    if record.trigger_ms is not None:
        return _wanted("trigger", record.trigger_ms, record, 0, next_ms, options)
    if paused:
        return None
    most = options.max_missed if options.missed == "all" else 1
    due = await _due(options.when, record.after_ms, now_ms, most)
    if not due.count:
        return None
    tick = due.newest[0]
    if options.missed == "skip" and _was_missed(record, tick, now_ms, options):
        return None
    after_it = options.when.next_ms(tick)
    return _wanted("tick", tick, record, due.count - len(due.newest), after_it, options)


def _wanted(
    kind: Literal["tick", "again", "trigger"],
    at_ms: int,
    record: ScheduleRecord,
    missed: int,
    next_ms: int | None,
    options: ScheduleOptions,
) -> Wanted:
    return Wanted(kind, at_ms, record.after_ms, missed, next_ms, options.retries)


def _was_missed(
    record: ScheduleRecord, tick_ms: int, now_ms: int, options: ScheduleOptions
) -> bool:
    """Return whether a tick came while the one before ran, or is more than a lease old."""
    ran = (record.started_ms or 0) <= tick_ms < (record.ended_ms or 0)
    return ran or now_ms - tick_ms > options.lease * 1000


async def _due(when: When, after_ms: int, until_ms: int, most: int) -> DueTicks:
    """Return the ticks that are due; after a long time they are many, so others go on meanwhile."""
    newest: deque[int] = deque(maxlen=most)
    count = 0
    while (tick := when.next_ms(after_ms)) is not None and tick <= until_ms:
        part_ms = min(until_ms, max(tick, after_ms) + AT_A_TIME_MS)
        part = when.due(after_ms, part_ms, most)
        newest.extend(part.newest)
        count += part.count
        if part_ms >= until_ms:
            break
        after_ms = part_ms
        await checkpoint()
    return DueTicks(tuple(newest), count)
