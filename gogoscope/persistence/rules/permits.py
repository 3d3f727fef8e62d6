"""How the permits of a semaphore or a read/write lock change.

The rules have the form that :mod:`gogoscope.persistence.rules` says. Invariants:

- A permit is granted only if it fits beside all that are held. One that a dead holder left is
  removed by the same write that grants the next: until then its holder may renew it.
- Who reserved a turn goes before all who came later: a claim is granted only if it fits beside the
  holders and all who wait before it. So readers that come later cannot starve a writer, nor many
  small claims one that needs more room; and those who fit at once do not wait for one another.
- Nobody waits for the dead: a turn that its owner does not renew ends.
- Each permit's lease changes by the rules of a lock, and its fencing token is higher than that of
  every permit granted before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, Steady
from gogoscope.persistence.permit_records import Permit, PermitClaim, PermitReply, PermitsRecord
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.persistence.rules.locks import TOMBSTONE_MS

NOBODY: Mapping[str, int] = {}


def claim(
    record: PermitsRecord | None,
    now_ms: int,
    request: PermitClaim,
    *,
    dead: Mapping[str, int] = NOBODY,
    skew_ms: int = 0,
    at: Steady | None = None,
    clock_was_set: bool = False,
) -> tuple[PermitsRecord | None, PermitReply]:
    """Grant a permit that fits, or let the caller wait for its turn.

    :param dead: whom the caller has watched unchanged for a whole lease: versions by nonce or turn
    """
    nonce, turn = request.lease.nonce, request.lease.turn
    if record is not None and nonce in record.holders:
        return record, PermitReply(granted=True, record=record)
    known = PermitsRecord(version=now_ms * 1000) if record is None else _on(record, at)

    def alive(permits: Mapping[str, Permit]) -> dict[str, Permit]:
        return {
            name: permit
            for name, permit in permits.items()
            if dead.get(name) != permit.lease.version
            and (clock_was_set or lock_rules.left_ms(permit.lease, now_ms, at) >= -skew_ms)
        }

    holders, waiting = alive(known.holders), alive(known.waiting)
    mine = None if turn is None else waiting.get(turn)
    own = Permit(LockRecord(0, 0), request.limit, request.takes)
    before = _before(waiting, turn)
    if _fit(holders.values(), [*before.values(), own]) and known.released_by != nonce:
        lease = _granted(known, now_ms, request.lease, at)
        holders[nonce] = Permit(lease, request.limit, request.takes)
        waiting.pop(turn or "", None)
        new = evolve(known, version=lease.version, holders=holders, waiting=waiting)
        return new, PermitReply(granted=True, record=new)
    if turn is not None and request.turn_ms and _must_renew(mine, request, now_ms, at):
        lease = _granted(known, now_ms, evolve(request.lease, lease_ms=request.turn_ms), at)
        version, since = lease.version, lease.acquired_at_ms
        if mine is not None:
            # It grows though a clock was set back, or whoever watches the turn takes it for dead.
            version, since = max(version, mine.lease.version + 1), mine.lease.acquired_at_ms
        lease = evolve(lease, version=version, fencing_token=0, acquired_at_ms=since)
        place = evolve(own, lease=lease)
        known = evolve(known, waiting={**waiting, turn: place})
    others = [*holders.values(), *before.values()]
    dead_in_ms = min(
        (lock_rules.left_ms(other.lease, now_ms, at) + skew_ms + 1 for other in others), default=0
    )
    return known, PermitReply(granted=False, record=known, dead_in_ms=max(0, dead_in_ms))


def hand_over(
    record: PermitsRecord | None,
    now_ms: int,
    nonce: str,
    request: PermitClaim,
    *,
    skew_ms: int = 0,
    at: Steady | None = None,
    clock_was_set: bool = False,
) -> tuple[PermitsRecord | None, PermitReply]:
    """Free the permit of ``nonce``, and grant the next one if it fits then."""
    if record is not None and request.lease.nonce in record.holders:
        return record, PermitReply(granted=True, record=record, freed=True)
    freed, held = release(record, now_ms, nonce)
    if not held:
        return record, PermitReply(granted=False, record=record)
    changed, reply = claim(
        freed, now_ms, request, skew_ms=skew_ms, at=at, clock_was_set=clock_was_set
    )
    return changed, evolve(reply, freed=True)


def renew(
    record: PermitsRecord | None,
    now_ms: int,
    nonce: str,
    version: int,
    lease_ms: int,
    until_ms: int,
    *,
    at: Steady | None = None,
) -> tuple[PermitsRecord | None, LockReply]:
    """Let the lease of a permit last longer, as :func:`~.locks.renew` does.

    A refusal shows the lease of whoever came later, if anybody did.
    """
    if record is None or nonce not in record.holders:
        return record, LockReply(granted=False, record=successor(record, version))
    permit = record.holders[nonce]
    lease, reply = lock_rules.renew(permit.lease, now_ms, nonce, version, lease_ms, until_ms, at=at)
    if lease is None or not reply.granted:
        return record, reply
    renewed = {**record.holders, nonce: evolve(permit, lease=lease)}
    return evolve(record, holders=renewed), reply


def release(record: PermitsRecord | None, now_ms: int, nonce: str) -> tuple[PermitsRecord, bool]:
    """Free the permit that ``nonce`` holds, keeping the order of fencing tokens.

    If it holds none, its claim may still be on its way: it is refused when it lands.
    """
    known = PermitsRecord(version=now_ms * 1000) if record is None else record
    held = nonce in known.holders
    if not held and known.released_by == nonce:
        return known, False
    return evolve(known, holders=_without(known.holders, nonce), released_by=nonce), held


def leave(
    record: PermitsRecord | None, now_ms: int, turn: str
) -> tuple[PermitsRecord | None, bool]:
    """Give up a turn that was reserved."""
    if record is None or turn not in record.waiting:
        return record, False
    return evolve(record, waiting=_without(record.waiting, turn)), True


def force_release(
    record: PermitsRecord | None, now_ms: int, fencing_token: int | None
) -> tuple[PermitsRecord | None, int]:
    """Free all permits, or that of one token, whoever holds them; return how many were held."""
    if record is None:
        return record, 0
    kept = {
        nonce: permit
        for nonce, permit in record.holders.items()
        if fencing_token is not None and permit.lease.fencing_token != fencing_token
    }
    freed = len(record.holders) - len(kept)
    return (evolve(record, holders=kept, released_by="force") if freed else record), freed


def successor(record: PermitsRecord | None, version: int) -> LockRecord | None:
    """Return the newest lease that was granted after a version, if there is one."""
    leases = [] if record is None else [permit.lease for permit in record.holders.values()]
    later = [lease for lease in leases if lease.fencing_token > version]
    return max(later, key=lambda lease: lease.fencing_token, default=None)


def purge_at_ms(record: PermitsRecord, now_ms: int) -> int:
    """Return when nobody can need the record any more, by the wall clock."""
    permits = [*record.holders.values(), *record.waiting.values()]
    return max([now_ms, *(permit.lease.lease_until_ms for permit in permits)]) + TOMBSTONE_MS


def lets_the_next_in(record: PermitsRecord) -> bool:
    """Return whether whoever waits first fits beside all holders."""
    first = next(iter(record.waiting.values()), None)
    return first is not None and _fit(record.holders.values(), [first])


def _fit(held: Iterable[Permit], wanted: Iterable[Permit]) -> bool:
    """Return whether all who want permits can have them at once, beside those that are held."""
    count, all_taken = 0, False
    for permit in held:
        count += 1
        all_taken = all_taken or permit.takes == "all"
    for permit in wanted:
        has_room = permit.limit is None or count < permit.limit
        if all_taken or not has_room or (permit.takes == "all" and count):
            return False
        count += 1
        all_taken = permit.takes == "all"
    return True


def _before(waiting: Mapping[str, Permit], turn: str | None) -> dict[str, Permit]:
    """Return those who wait before a turn; for one that is not reserved, all of them."""
    before: dict[str, Permit] = {}
    for name, permit in waiting.items():
        if name == turn:
            break
        before[name] = permit
    return before


def _granted(
    record: PermitsRecord, now_ms: int, request: LockClaim, at: Steady | None
) -> LockRecord:
    """Return the lease of the next holder, whose token is higher than all before."""
    newest = LockRecord(version=record.version, fencing_token=record.version)
    lease, _ = lock_rules.claim(newest, now_ms, request, at=at)
    assert lease is not None
    return lease


def _must_renew(mine: Permit | None, request: PermitClaim, now_ms: int, at: Steady | None) -> bool:
    """Return whether a turn is to be reserved, or its second half has begun, or a clock was set."""
    if mine is None:
        return True
    left_ms = lock_rules.left_ms(mine.lease, now_ms, at)
    return not request.turn_ms <= 2 * left_ms <= 2 * request.turn_ms


def _on(record: PermitsRecord, at: Steady | None) -> PermitsRecord:
    """Let the leases of another timeline run for their whole length from now on."""
    if at is None:
        return record
    permits = [*record.holders.values(), *record.waiting.values()]
    if all(permit.lease.timeline == at.timeline for permit in permits):
        return record

    def moved(permits: Mapping[str, Permit]) -> dict[str, Permit]:
        return {name: evolve(one, lease=_moved(one.lease, at)) for name, one in permits.items()}

    return evolve(record, holders=moved(record.holders), waiting=moved(record.waiting))


def _moved(lease: LockRecord, at: Steady) -> LockRecord:
    if lease.timeline == at.timeline:
        return lease
    return evolve(lease, timeline=at.timeline, steady_until_ms=at.ms + lease.lease_ms)


def _without(permits: Mapping[str, Permit], name: str) -> dict[str, Permit]:
    return {other: permit for other, permit in permits.items() if other != name}
