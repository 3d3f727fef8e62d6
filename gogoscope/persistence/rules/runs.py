"""How a stored run changes, by rules of the form that :mod:`gogoscope.persistence.rules` says.

Invariants:

- The lease of a run changes by the rules of a lock alone, so its fencing token only grows.
- A verdict (``done``, ``failed``, ``unkept``) is written only by who has the lease, or by a person,
  and stays until it is forgotten. Whoever lost the lease changes nothing any more.
- A run that died is taken over, unless it or the caller wants to ask: then its state is
  ``unknown``, and only a person changes that.
- While a payload is known, a claim with another one is refused.
"""

from __future__ import annotations

from typing import Literal

from attrs import evolve

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, Steady
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.persistence.rules.locks import TOMBSTONE_MS
from gogoscope.persistence.run_records import (
    VERDICTS,
    AfterCrash,
    RunRecord,
    RunReply,
    RunState,
    Verdict,
)


def claim(
    record: RunRecord | None,
    now_ms: int,
    request: LockClaim,
    *,
    payload: str | None = None,
    after_crash: AfterCrash = "run",
    skew_ms: int = 0,
    seen: LockRecord | None = None,
    at: Steady | None = None,
    clock_was_set: bool = False,
) -> tuple[RunRecord, RunReply]:
    """Let the caller run, or show who does, or what came of it."""
    if record is not None and record.has_verdict(now_ms):
        kept_ms = None if record.until_ms is None else record.until_ms - now_ms
        return record, RunReply(granted=False, record=record, kept_ms=kept_ms)
    if record is not None and (
        record.state == "unknown" or (record.state == "running" and record.is_for_another(payload))
    ):
        return record, RunReply(granted=False, record=record)
    before = None if record is None else record.lease
    lease, reply = lock_rules.claim(
        before, now_ms, request, skew_ms=skew_ms, seen=seen, at=at, clock_was_set=clock_was_set
    )
    if record is not None and (not reply.granted or lease is before):
        # Refused, which may have noted when a lease of another boot ends; or granted once before.
        kept = record if lease is None or lease is before else evolve(record, lease=lease)
        return kept, RunReply(reply.granted, kept, reply.dead_in_ms)
    assert lease is not None
    if (
        record is not None
        and record.state == "running"
        and "ask" in (record.after_crash, after_crash)
    ):
        record = evolve(record, state="unknown")
        return record, RunReply(granted=False, record=record)
    begun = RunRecord(lease, "running", payload, after_crash)
    return begun, RunReply(granted=True, record=begun)


def renew(
    record: RunRecord | None,
    now_ms: int,
    nonce: str,
    version: int,
    lease_ms: int,
    until_ms: int,
    *,
    at: Steady | None = None,
) -> tuple[RunRecord | None, LockReply]:
    """Let the lease of a run last longer, as :func:`~.locks.renew` does."""
    if record is None or record.state != "running":
        return record, LockReply(granted=False, record=None)
    lease, reply = lock_rules.renew(record.lease, now_ms, nonce, version, lease_ms, until_ms, at=at)
    assert lease is not None
    return (record if lease is record.lease else evolve(record, lease=lease)), reply


def complete(
    record: RunRecord | None,
    now_ms: int,
    nonce: str,
    state: Verdict,
    outcome: str | None,
    keep_ms: int | None,
) -> tuple[RunRecord | None, bool]:
    """Keep the verdict of the run that ``nonce`` has; ``False`` if it has none."""
    if record is None or record.lease.nonce != nonce or record.state != "running":
        # An earlier try landed, unless somebody else has said what came of it.
        told_before = record is not None and record.lease.released_by == nonce
        same = record is not None and (record.state, record.outcome) == (state, outcome)
        return record, told_before and same
    until_ms = None if keep_ms is None else now_ms + keep_ms
    return _settled(record, now_ms, state, outcome, until_ms), True


def abandon(record: RunRecord | None, now_ms: int, nonce: str) -> tuple[RunRecord | None, bool]:
    """Let the next caller run instead of ``nonce``; ``False`` if that does not run.

    If nobody runs, its claim may still be on its way: it is refused when it lands.
    """
    if record is None or record.state == "open":
        lease, _ = lock_rules.take_back(None if record is None else record.lease, now_ms, nonce)
        assert lease is not None
        return RunRecord(lease, "open") if record is None else evolve(record, lease=lease), False
    if record.lease.nonce != nonce or record.state != "running":
        return record, False
    return _settled(record, now_ms, "open", None, None), True


def resolve(
    record: RunRecord | None,
    now_ms: int,
    state: Literal["done", "open"],
    outcome: str | None,
    keep_ms: int | None,
    *,
    skew_ms: int = 0,
    at: Steady | None = None,
) -> tuple[RunRecord | None, bool | None]:
    """Say what came of a run that died; ``None`` if it runs, ``False`` if nothing is to be said."""
    if record is None or record.state not in ("unknown", "running"):
        return record, False
    if record.state == "running" and lock_rules.left_ms(record.lease, now_ms, at) >= -skew_ms:
        return record, None
    until_ms = None if keep_ms is None else now_ms + keep_ms
    return _settled(record, now_ms, state, outcome, until_ms), True


def purge_at_ms(record: RunRecord, now_ms: int) -> int | None:
    """Return when nobody can need the record any more; never, if somebody is to be asked."""
    if record.state == "unknown" or (record.state, record.after_crash) == ("running", "ask"):
        return None
    if record.state in VERDICTS:
        return None if record.until_ms is None else record.until_ms + TOMBSTONE_MS
    return lock_rules.purge_at_ms(record.lease, now_ms)


def _settled(
    record: RunRecord,
    now_ms: int,
    state: RunState,
    outcome: str | None,
    until_ms: int | None,
) -> RunRecord:
    assert record.lease.nonce is not None
    lease, _ = lock_rules.release(record.lease, now_ms, record.lease.nonce)
    assert lease is not None
    return evolve(record, lease=lease, state=state, outcome=outcome, until_ms=until_ms)
