"""How a stored job changes, by rules of the form that :mod:`gogoscope.persistence.rules` says.

Invariants:

- The lease of a job changes by the rules of a lock alone, so its fencing token only grows.
- A state is saved only by who has the lease, at the version of the lease that it knows: so neither
  a holder that was taken over nor a save that lands late changes anything.
- A saved state stays until the job has finished and is forgotten, or somebody begins it anew.
"""

from __future__ import annotations

from attrs import evolve

from gogoscope.persistence.job_records import JobRecord, JobReply
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, Steady
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.persistence.rules.locks import TOMBSTONE_MS


def claim(
    record: JobRecord | None,
    now_ms: int,
    request: LockClaim,
    version: int,
    *,
    restart: bool = False,
    skew_ms: int = 0,
    seen: LockRecord | None = None,
    at: Steady | None = None,
    clock_was_set: bool = False,
) -> tuple[JobRecord, JobReply]:
    """Let the caller have the job, unless somebody has it or a newer program saved its state."""
    anew = record is None or restart or record.is_forgotten(now_ms)
    if record is not None and not anew and record.is_newer_than(version):
        return record, JobReply(granted=False, record=record)
    before = None if record is None else record.lease
    lease, reply = lock_rules.claim(
        before, now_ms, request, skew_ms=skew_ms, seen=seen, at=at, clock_was_set=clock_was_set
    )
    assert lease is not None
    if record is not None and (lease is before or not (reply.granted and anew)):
        record = record if lease is before else evolve(record, lease=lease)
    else:
        record = JobRecord(lease, version)
    return record, JobReply(reply.granted, record, reply.dead_in_ms)


def renew(
    record: JobRecord | None,
    now_ms: int,
    nonce: str,
    version: int,
    lease_ms: int,
    until_ms: int,
    *,
    at: Steady | None = None,
) -> tuple[JobRecord | None, LockReply]:
    """Let the lease of a job last longer, as :func:`~.locks.renew` does."""
    if record is None:
        return None, LockReply(granted=False, record=None)
    lease, reply = lock_rules.renew(record.lease, now_ms, nonce, version, lease_ms, until_ms, at=at)
    assert lease is not None
    return (record if lease is record.lease else evolve(record, lease=lease)), reply


def save(
    record: JobRecord | None,
    now_ms: int,
    nonce: str,
    version: int,
    lease_ms: int,
    until_ms: int,
    state: str,
    job_version: int,
    *,
    done: int | None = None,
    total: int | None = None,
    number: int = 0,
    at: Steady | None = None,
) -> tuple[JobRecord | None, LockReply]:
    """Keep a state, and let the lease last longer, in one step.

    With a ``number``, no save of a lower one, such as one in a transaction, can land later.
    """
    renewed, reply = renew(record, now_ms, nonce, version, lease_ms, until_ms, at=at)
    if renewed is None or not reply.granted:
        return renewed, reply
    saved = evolve(
        renewed,
        state=state,
        version=job_version,
        saves=max(renewed.saves + 1, number),
        finished_ms=None,
        until_ms=None,
        done=renewed.done if done is None else done,
        total=renewed.total if total is None else total,
    )
    return saved, reply


def finish(
    record: JobRecord | None, now_ms: int, nonce: str, keep_ms: int | None
) -> tuple[JobRecord | None, bool]:
    """Note that the job of ``nonce`` has finished, and free it; ``False`` if it was lost."""
    if record is not None and record.lease.released_by == nonce and record.finished_ms is not None:
        return record, True  # an earlier try landed
    if record is None or record.lease.nonce != nonce:
        return record, False
    freed, _ = release(record, now_ms, nonce)
    until_ms = None if keep_ms is None else now_ms + keep_ms
    return evolve(freed, finished_ms=now_ms, until_ms=until_ms), True


def release(record: JobRecord | None, now_ms: int, nonce: str) -> tuple[JobRecord, bool]:
    """Free the job that ``nonce`` holds, which is to go on from its state.

    If nobody holds it, its claim may still be on its way: it is refused when it lands.
    """
    before = None if record is None else record.lease
    lease, held = lock_rules.take_back(before, now_ms, nonce)
    assert lease is not None
    if record is None:
        return JobRecord(lease, version=0), False
    return (record if lease is before else evolve(record, lease=lease)), held


def purge_at_ms(record: JobRecord, now_ms: int) -> int | None:
    """Return when nobody can need the record any more: never, while a state is to go on from."""
    if record.until_ms is None and (record.saves or record.finished_ms is not None):
        return None
    lease_ends_ms = lock_rules.purge_at_ms(record.lease, now_ms)
    return max(lease_ends_ms, (record.until_ms or 0) + TOMBSTONE_MS)
