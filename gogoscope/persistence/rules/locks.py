"""How a stored lock changes, by rules of the form that :mod:`gogoscope.persistence.rules` says.

Invariants: ``version`` and ``fencing_token`` never go back, since a lock that is released keeps
its record. A lock changes hands only by ``claim`` and ``hand_over``, and each raises the token, to
the clock in microseconds at least.

A store of one machine passes ``at``, the time of a steady clock (:class:`Steady`), and leases count
by that alone: no setting of a wall clock ends or lengthens one. A lease of another timeline (before
a boot, say) has an end that means nothing here: the first claim that meets it lets it run for its
whole length from then on. A store that machines share passes none, and leases count by the wall
clock.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, Steady

TOMBSTONE_MS = 86_400_000


def claim(
    record: LockRecord | None,
    now_ms: int,
    request: LockClaim,
    *,
    skew_ms: int = 0,
    seen: LockRecord | None = None,
    at: Steady | None = None,
    clock_was_set: bool = False,
) -> tuple[LockRecord | None, LockReply]:
    """Grant a lock that is free, dead by the clock, or unchanged since ``seen``.

    A clock that was set says nothing of the leases of others: then only watching them does.
    """
    if record is not None:
        if record.nonce == request.nonce:
            return record, LockReply(granted=True, record=record)
        if seen is None:
            if record.nonce is not None and at is not None and record.timeline != at.timeline:
                record = evolve(record, **_steady_end(at, record.lease_ms))
            dead = not clock_was_set and left_ms(record, now_ms, at) < -skew_ms
            free = (dead or record.nonce is None) and not _reserved_by_another(
                record, request.turn, now_ms, at
            )
        elif seen.nonce is not None:
            free = (record.nonce, record.version) == (seen.nonce, seen.version)
        else:
            free = record.nonce is None and _reservation(record) == _reservation(seen)
        if not free or record.released_by == request.nonce:
            return record, _refusal(record, now_ms, skew_ms, at)
    return _taken(now_ms * 1000 if record is None else record.version, request, now_ms, at)


def hand_over(
    record: LockRecord | None,
    now_ms: int,
    nonce: str,
    request: LockClaim,
    *,
    at: Steady | None = None,
) -> tuple[LockRecord | None, LockReply]:
    """Pass the lock that ``nonce`` holds on, unless somebody reserved the next turn."""
    if record is not None and record.nonce == request.nonce:
        return record, LockReply(granted=True, record=record)
    if (
        record is None
        or record.nonce != nonce
        or _reserved_by_another(record, request.turn, now_ms, at)
    ):
        return record, LockReply(granted=False, record=record)
    return _taken(record.version, request, now_ms, at)


def reserve(
    record: LockRecord | None,
    now_ms: int,
    turn: str,
    duration_ms: int,
    *,
    skew_ms: int = 0,
    at: Steady | None = None,
) -> tuple[LockRecord | None, LockReply]:
    """Reserve the next turn of a held lock; with a duration of 0 cancel the reservation."""
    if record is not None and record.next_turn == turn and not duration_ms:
        record = evolve(record, next_turn=None, next_until_ms=0)
        return record, LockReply(granted=True, record=record)
    if (
        record is None
        or record.nonce is None
        or not duration_ms
        or _reserved_by_another(record, turn, now_ms, at)
    ):
        return record, _refusal(record, now_ms, skew_ms, at)
    until_ms = (now_ms if at is None else at.ms) + duration_ms
    reserved = evolve(record, next_turn=turn, next_until_ms=until_ms)
    return reserved, evolve(_refusal(reserved, now_ms, skew_ms, at), granted=True)


def renew(
    record: LockRecord | None,
    now_ms: int,
    nonce: str,
    version: int,
    lease_ms: int,
    until_ms: int,
    *,
    at: Steady | None = None,
) -> tuple[LockRecord | None, LockReply]:
    """Let a lease that is still held at ``version`` last until ``until_ms``, or longer.

    It lasts ``lease_ms`` from now at least: ``until_ms`` counts from a clock that may have been
    wrong when the lock was taken.
    """
    if record is None or record.nonce != nonce or record.version != version:
        return record, LockReply(granted=False, record=record)
    until_ms = max(until_ms, now_ms + lease_ms)
    renewed = _lasting(record, lease_ms, until_ms, at)
    return renewed, LockReply(granted=True, record=renewed)


def extend(
    record: LockRecord | None,
    now_ms: int,
    owner: str,
    lease_ms: int,
    *,
    at: Steady | None = None,
) -> tuple[LockRecord | None, bool]:
    """Let the running lease of an owner end ``lease_ms`` from now at the earliest.

    Its holder does not learn of it, so the lease that the holder counts on must not get shorter.
    """
    if record is None or record.owner != owner or left_ms(record, now_ms, at) <= 0:
        return record, False
    if left_ms(record, now_ms, at) >= lease_ms:
        return record, True
    return _lasting(record, lease_ms, now_ms + lease_ms, at), True


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


def take_back(record: LockRecord | None, now_ms: int, nonce: str) -> tuple[LockRecord | None, bool]:
    """Free the lock that ``nonce`` holds, or will hold if its claim is still on its way.

    If nobody holds the lock, it notes that the claim is refused when it lands.
    """
    if record is not None and record.nonce is not None:
        return release(record, now_ms, nonce)
    if record is None:
        token = now_ms * 1000
        return LockRecord(version=token, fencing_token=token, released_by=nonce), False
    return (record if record.released_by == nonce else evolve(record, released_by=nonce)), False


def force_release(record: LockRecord | None, now_ms: int) -> tuple[LockRecord | None, bool]:
    """Free the lock, whoever holds it."""
    if record is None or record.nonce is None:
        return record, False
    return LockRecord(
        version=record.version, fencing_token=record.fencing_token, released_by="force"
    ), True


def left_ms(record: LockRecord, now_ms: int, at: Steady | None) -> int:
    """Return how long a lease still runs; for one of another timeline, its whole length."""
    if at is None:
        return record.lease_until_ms - now_ms
    if record.timeline == at.timeline:
        return record.steady_until_ms - at.ms
    return record.lease_ms


def purge_at_ms(record: LockRecord, now_ms: int) -> int:
    """Return when nobody can need the record any more, by the wall clock.

    The margin keeps the lock, and the order of fencing tokens, when clocks disagree or are set.
    """
    return max(now_ms, record.lease_until_ms) + TOMBSTONE_MS


def _taken(
    version: int, request: LockClaim, now_ms: int, at: Steady | None
) -> tuple[LockRecord, LockReply]:
    # A server that has lost its last writes has not lost the time since.
    token = max(version + 1, now_ms * 1000)
    taken = LockRecord(
        version=token,
        fencing_token=token,
        owner=request.owner,
        nonce=request.nonce,
        lease_ms=request.lease_ms,
        lease_until_ms=now_ms + request.lease_ms,
        acquired_at_ms=now_ms,
        metadata=request.metadata,
        **_steady_end(at, request.lease_ms),
    )
    return taken, LockReply(granted=True, record=taken)


def _lasting(record: LockRecord, lease_ms: int, until_ms: int, at: Steady | None) -> LockRecord:
    return evolve(
        record,
        version=record.version + 1,
        lease_ms=lease_ms,
        lease_until_ms=until_ms,
        **_steady_end(at, lease_ms),
    )


def _steady_end(at: Steady | None, lease_ms: int) -> dict[str, Any]:
    if at is None:
        return {}
    return {"timeline": at.timeline, "steady_until_ms": at.ms + lease_ms}


def _refusal(record: LockRecord | None, now_ms: int, skew_ms: int, at: Steady | None) -> LockReply:
    if record is None or record.nonce is None:
        return LockReply(granted=False, record=record)
    dead_in_ms = max(0, left_ms(record, now_ms, at) + skew_ms + 1)
    return LockReply(granted=False, record=record, dead_in_ms=dead_in_ms)


def _reserved_by_another(
    record: LockRecord, turn: str | None, now_ms: int, at: Steady | None
) -> bool:
    time_ms = now_ms if at is None else at.ms
    return record.next_turn not in (None, turn) and record.next_until_ms >= time_ms


def _reservation(record: LockRecord) -> tuple[str | None, int]:
    return record.next_turn, record.next_until_ms
