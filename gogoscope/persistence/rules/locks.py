"""How a stored lock changes, by rules of the form that :mod:`gogoscope.persistence.rules` says.

Invariants: ``version`` and ``fencing_token`` never go back, since a lock that is released keeps
its record. A lock changes hands only by ``claim`` and ``hand_over``, and each raises the token.
"""

from __future__ import annotations

from attrs import evolve

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply

TOMBSTONE_MS = 86_400_000


def claim(
    record: LockRecord | None,
    now_ms: int,
    request: LockClaim,
    *,
    skew_ms: int = 0,
    seen: LockRecord | None = None,
) -> tuple[LockRecord | None, LockReply]:
    """Grant a lock that is free, dead by the clock, or unchanged since ``seen``."""
    if record is not None:
        if record.nonce == request.nonce:
            return record, LockReply(granted=True, record=record)
        if seen is None:
            dead = record.nonce is None or record.lease_until_ms < now_ms - skew_ms
            free = dead and not _reserved_by_another(record, request.turn, now_ms)
        elif seen.nonce is not None:
            free = (record.nonce, record.version) == (seen.nonce, seen.version)
        else:
            free = record.nonce is None and _reservation(record) == _reservation(seen)
        if not free or record.released_by == request.nonce:
            return record, _refusal(record, now_ms, skew_ms)
    return _taken(now_ms * 1000 if record is None else record.version, request, now_ms)


def hand_over(
    record: LockRecord | None, now_ms: int, nonce: str, request: LockClaim
) -> tuple[LockRecord | None, LockReply]:
    """Pass the lock that ``nonce`` holds on, unless somebody reserved the next turn."""
    if record is not None and record.nonce == request.nonce:
        return record, LockReply(granted=True, record=record)
    if (
        record is None
        or record.nonce != nonce
        or _reserved_by_another(record, request.turn, now_ms)
    ):
        return record, LockReply(granted=False, record=record)
    return _taken(record.version, request, now_ms)


def reserve(
    record: LockRecord | None, now_ms: int, turn: str, duration_ms: int, *, skew_ms: int = 0
) -> tuple[LockRecord | None, LockReply]:
    """Reserve the next turn of a held lock; with a duration of 0 cancel the reservation."""
    if record is not None and record.next_turn == turn and not duration_ms:
        record = evolve(record, next_turn=None, next_until_ms=0)
        return record, LockReply(granted=True, record=record)
    if (
        record is None
        or record.nonce is None
        or not duration_ms
        or _reserved_by_another(record, turn, now_ms)
    ):
        return record, _refusal(record, now_ms, skew_ms)
    reserved = evolve(record, next_turn=turn, next_until_ms=now_ms + duration_ms)
    return reserved, evolve(_refusal(reserved, now_ms, skew_ms), granted=True)


def renew(
    record: LockRecord | None, now_ms: int, nonce: str, version: int, lease_ms: int, until_ms: int
) -> tuple[LockRecord | None, LockReply]:
    """Let a lease that is still held at ``version`` last until ``until_ms``, or longer.

    It lasts ``lease_ms`` from now at least: ``until_ms`` counts from a clock that may have been
    wrong when the lock was taken.
    """
    if record is None or record.nonce != nonce or record.version != version:
        return record, LockReply(granted=False, record=record)
    until_ms = max(until_ms, now_ms + lease_ms)
    renewed = evolve(record, version=version + 1, lease_ms=lease_ms, lease_until_ms=until_ms)
    return renewed, LockReply(granted=True, record=renewed)


def extend(
    record: LockRecord | None, now_ms: int, owner: str, lease_ms: int
) -> tuple[LockRecord | None, bool]:
    """Let the running lease of an owner end ``lease_ms`` from now at the earliest.

    Its holder does not learn of it, so the lease that the holder counts on must not get shorter.
    """
    if record is None or record.owner != owner or record.lease_until_ms <= now_ms:
        return record, False
    until_ms = now_ms + lease_ms
    if record.lease_until_ms >= until_ms:
        return record, True
    return evolve(
        record, version=record.version + 1, lease_ms=lease_ms, lease_until_ms=until_ms
    ), True


def release(record: LockRecord | None, now_ms: int, nonce: str) -> tuple[LockRecord | None, bool]:
    """Free the lock that ``nonce`` holds, keeping its version for later fencing tokens."""
    if record is None or record.nonce != nonce:
        return record, False
    return LockRecord(
        version=record.version,
        fencing_token=record.fencing_token,
        released_by=nonce,
        next_turn=record.next_turn,
        next_until_ms=record.next_until_ms,
    ), True


def force_release(record: LockRecord | None, now_ms: int) -> tuple[LockRecord | None, bool]:
    """Free the lock, whoever holds it."""
    if record is None or record.nonce is None:
        return record, False
    return LockRecord(
        version=record.version, fencing_token=record.fencing_token, released_by="force"
    ), True


def purge_at_ms(record: LockRecord, now_ms: int) -> int:
    """Return when nobody can need the record any more.

    The margin keeps the version, and so the order of fencing tokens, when clocks disagree.
    """
    return max(now_ms, record.lease_until_ms) + TOMBSTONE_MS


def _taken(version: int, request: LockClaim, now_ms: int) -> tuple[LockRecord, LockReply]:
    taken = LockRecord(
        version=version + 1,
        fencing_token=version + 1,
        owner=request.owner,
        nonce=request.nonce,
        lease_ms=request.lease_ms,
        lease_until_ms=now_ms + request.lease_ms,
        acquired_at_ms=now_ms,
        metadata=request.metadata,
    )
    return taken, LockReply(granted=True, record=taken)


def _refusal(record: LockRecord | None, now_ms: int, skew_ms: int) -> LockReply:
    if record is None or record.nonce is None:
        return LockReply(granted=False, record=record)
    dead_in_ms = max(0, record.lease_until_ms + skew_ms + 1 - now_ms)
    return LockReply(granted=False, record=record, dead_in_ms=dead_in_ms)


def _reserved_by_another(record: LockRecord, turn: str | None, now_ms: int) -> bool:
    return record.next_turn not in (None, turn) and record.next_until_ms >= now_ms


def _reservation(record: LockRecord) -> tuple[str | None, int]:
    return record.next_turn, record.next_until_ms
