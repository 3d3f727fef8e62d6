"""How a stored lock changes: pure functions of (record, request, time), for stores that transact.

Each gives ``(record, answer)``; the record is the one that was passed, unchanged, when nothing is
to be written. Times are milliseconds since the Unix epoch.
"""

from __future__ import annotations

from attrs import evolve

from gogoscope.persistence.protocols import LockClaim, LockRecord, LockReply

TOMBSTONE_MS = 86_400_000


def claim(
    record: LockRecord | None,
    request: LockClaim,
    now_ms: int,
    *,
    skew_ms: int = 0,
    seen: LockRecord | None = None,
) -> tuple[LockRecord | None, LockReply]:
    """Grant a lock that is free, dead by the clock, or unchanged since ``seen``."""
    if record is not None:
        if record.nonce == request.nonce:
            return record, LockReply(granted=True, record=record)
        if seen is not None:
            free = (record.nonce, record.version) == (seen.nonce, seen.version)
        else:
            free = record.nonce is None or record.lease_until_ms < now_ms - skew_ms
        if not free or record.released_by == request.nonce:
            return record, LockReply(granted=False, record=record)
    version = (now_ms * 1000 if record is None else record.version) + 1
    taken = LockRecord(
        version=version,
        fencing_token=version,
        owner=request.owner,
        nonce=request.nonce,
        lease_ms=request.lease_ms,
        lease_until_ms=now_ms + request.lease_ms,
        acquired_at_ms=now_ms,
        metadata=request.metadata,
    )
    return taken, LockReply(granted=True, record=taken)


def renew(
    record: LockRecord | None, nonce: str, version: int, lease_ms: int, until_ms: int
) -> tuple[LockRecord | None, LockReply]:
    """Let a lease that is still held at ``version`` last until ``until_ms``."""
    if record is None or record.nonce != nonce or record.version != version:
        return record, LockReply(granted=False, record=record)
    renewed = evolve(record, version=version + 1, lease_ms=lease_ms, lease_until_ms=until_ms)
    return renewed, LockReply(granted=True, record=renewed)


def extend(
    record: LockRecord | None, owner: str, lease_ms: int, now_ms: int
) -> tuple[LockRecord | None, bool]:
    """Let the running lease of an owner end ``lease_ms`` from now."""
    if record is None or record.owner != owner or record.lease_until_ms <= now_ms:
        return record, False
    until_ms = now_ms + lease_ms
    return evolve(
        record, version=record.version + 1, lease_ms=lease_ms, lease_until_ms=until_ms
    ), True


def release(record: LockRecord | None, nonce: str) -> tuple[LockRecord | None, bool]:
    """Free the lock that ``nonce`` holds, keeping its version for later fencing tokens."""
    if record is None or record.nonce != nonce:
        return record, False
    return _released(record, nonce), True


def force_release(record: LockRecord | None) -> tuple[LockRecord | None, bool]:
    """Free the lock, whoever holds it."""
    if record is None or record.nonce is None:
        return record, False
    return _released(record, "force"), True


def purge_at_ms(record: LockRecord, now_ms: int) -> int:
    """Tell when nobody can need the record any more.

    The margin keeps the version, and so the order of fencing tokens, when clocks disagree.
    """
    return max(now_ms, record.lease_until_ms) + TOMBSTONE_MS


def _released(record: LockRecord, released_by: str) -> LockRecord:
    return LockRecord(
        version=record.version, fencing_token=record.fencing_token, released_by=released_by
    )
