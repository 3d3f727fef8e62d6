"""How a stored schedule changes, by rules of the form that :mod:`gogoscope.persistence.rules` says.

Invariants:

- ``after_ms`` never goes back, and a tick is begun only if it is later than that, and then is that.
  So no tick is begun twice, whatever the clocks of those who begin it.
- A run that was begun is begun again only after its lease is over, or it said itself that it was
  cut short, and not more often than its ``retries`` allow.
- The lease of a run changes by the rules of a lock alone, so its fencing token only grows. Whoever
  lost the lease changes nothing any more.
- While a schedule is paused, nothing starts but what a person triggers.
"""

from __future__ import annotations

from attrs import evolve

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, Steady
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.persistence.schedule_records import (
    ScheduleRecord,
    ScheduleReply,
    TickEnd,
    TickState,
    Wanted,
)

FORGOTTEN_MS = 30 * 86_400_000
"""For how long nobody must have run a schedule, after its next tick was due, to be forgotten."""


def open_schedule(
    record: ScheduleRecord | None, now_ms: int, definition: str, next_ms: int | None
) -> tuple[ScheduleRecord, ScheduleRecord]:
    """Note a schedule that is new, or whose definition has changed: it begins from now on."""
    if record is None:
        token = now_ms * 1000
        lease = LockRecord(version=token, fencing_token=token)
        record = ScheduleRecord(lease, definition, after_ms=now_ms, next_ms=next_ms)
    elif record.definition != definition:
        after_ms = max(record.after_ms, now_ms)
        record = evolve(record, definition=definition, after_ms=after_ms, next_ms=next_ms)
    return record, record


def claim(
    record: ScheduleRecord | None,
    now_ms: int,
    request: LockClaim,
    wanted: Wanted,
    *,
    due_ms: int | None = None,
    skew_ms: int = 0,
    seen: LockRecord | None = None,
    at: Steady | None = None,
    clock_was_set: bool = False,
) -> tuple[ScheduleRecord | None, ScheduleReply]:
    """Let the caller run what it wants, unless somebody runs, or has run that.

    :param due_ms: the time by which ticks are due, if that is another than that of leases
    """
    due_ms = now_ms if due_ms is None else due_ms
    if record is None:
        return None, ScheduleReply(granted=False, record=None)
    if record.state == "running" and record.lease.nonce == request.nonce:
        return record, ScheduleReply(granted=True, record=record)  # an earlier try landed
    if not _may_start(record, due_ms, wanted):
        return record, ScheduleReply(granted=False, record=record)
    lease, reply = lock_rules.claim(
        record.lease,
        now_ms,
        request,
        skew_ms=skew_ms,
        seen=seen,
        at=at,
        clock_was_set=clock_was_set,
    )
    assert lease is not None
    if not reply.granted:
        # The refusal may have noted when a lease of another boot ends.
        kept = record if lease is record.lease else evolve(record, lease=lease)
        return kept, ScheduleReply(granted=False, record=kept, dead_in_ms=reply.dead_in_ms)
    again, tick = wanted.kind == "again", wanted.kind == "tick"
    begun = evolve(
        record,
        lease=lease,
        after_ms=wanted.at_ms if tick else record.after_ms,
        next_ms=wanted.next_ms,
        at_ms=wanted.at_ms,
        kind=record.kind if wanted.kind == "again" else wanted.kind,
        state="running",
        starts=record.starts + 1 if again else 1,
        missed=record.missed if again else wanted.missed,
        started_ms=due_ms,
        ended_ms=None,
        error=None,
        trigger_ms=None if wanted.kind == "trigger" else record.trigger_ms,
    )
    return begun, ScheduleReply(granted=True, record=begun)


def renew(
    record: ScheduleRecord | None,
    now_ms: int,
    nonce: str,
    version: int,
    lease_ms: int,
    until_ms: int,
    *,
    at: Steady | None = None,
) -> tuple[ScheduleRecord | None, LockReply]:
    """Let the lease of a run last longer, as :func:`~.locks.renew` does."""
    if record is None or record.state != "running":
        return record, LockReply(granted=False, record=None)
    lease, reply = lock_rules.renew(record.lease, now_ms, nonce, version, lease_ms, until_ms, at=at)
    assert lease is not None
    return (record if lease is record.lease else evolve(record, lease=lease)), reply


def end(
    record: ScheduleRecord | None, now_ms: int, nonce: str, how: TickEnd, error: str | None
) -> tuple[ScheduleRecord | None, bool]:
    """Note how the run of ``nonce`` ended; ``False`` if it was taken over.

    If nobody runs, the claim of an unbegun one may still be on its way: it is refused when it
    lands.
    """
    if record is None:
        return None, False
    state: TickState = "interrupted" if how == "unbegun" else how
    if record.state != "running":
        if record.lease.released_by == nonce and record.state == state:
            return record, True  # an earlier try landed
        if how != "unbegun":
            return record, False
        lease, _ = lock_rules.take_back(record.lease, now_ms, nonce)
        assert lease is not None
        return (record if lease is record.lease else evolve(record, lease=lease)), False
    if record.lease.nonce != nonce:
        return record, False
    lease, _ = lock_rules.release(record.lease, now_ms, nonce)
    assert lease is not None
    starts = record.starts - 1 if how == "unbegun" else record.starts
    ended = evolve(record, lease=lease, state=state, starts=starts, ended_ms=now_ms, error=error)
    return ended, True


def pause(record: ScheduleRecord | None, now_ms: int) -> tuple[ScheduleRecord | None, bool]:
    """Let no tick start any more; ``False`` if there is no such schedule."""
    if record is None or record.paused_ms is not None:
        return record, record is not None
    return evolve(record, paused_ms=now_ms), True


def unpause(record: ScheduleRecord | None, now_ms: int) -> tuple[ScheduleRecord | None, bool]:
    """Let the ticks start again that come from now on; ``False`` if there is no such schedule."""
    if record is None or record.paused_ms is None:
        return record, record is not None
    return evolve(record, paused_ms=None, after_ms=max(record.after_ms, now_ms)), True


def trigger(record: ScheduleRecord | None, now_ms: int) -> tuple[ScheduleRecord | None, bool]:
    """Ask for a run besides the ticks; ``False`` if there is no such schedule."""
    if record is None or record.trigger_ms is not None:
        return record, record is not None
    return evolve(record, trigger_ms=now_ms), True


def purge_at_ms(record: ScheduleRecord, now_ms: int) -> int | None:
    """Return when nobody can need the record any more; never, while it is paused."""
    if record.paused_ms is not None:
        return None
    return max(now_ms, record.next_ms or 0, record.lease.lease_until_ms) + FORGOTTEN_MS


def asks_to_look(record: ScheduleRecord) -> bool:
    """Return whether those who wait for ticks shall look: before the next tick there is a run.

    Or they have slept while the ticks were paused, or were others.
    """
    if record.state == "running":
        return False
    if record.trigger_ms is not None or record.state == "interrupted":
        return True
    began_anew = record.at_ms is None or record.after_ms > record.at_ms
    return began_anew and record.paused_ms is None


def _may_start(record: ScheduleRecord, now_ms: int, wanted: Wanted) -> bool:
    """Return whether a run is due, whoever holds the lease.

    One that died goes before all others, which would take its place in the record.
    """
    again = record.may_start_again(wanted.retries)
    if wanted.kind == "again":
        waits = record.paused_ms is not None and record.trigger_ms is None
        return again and not waits and record.at_ms == wanted.at_ms
    if again:
        return False
    if wanted.kind == "trigger":
        return record.trigger_ms == wanted.at_ms
    due = record.after_ms == wanted.after_ms < wanted.at_ms <= now_ms
    return due and record.paused_ms is None
