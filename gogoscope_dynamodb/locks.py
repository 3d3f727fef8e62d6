"""Locks in a DynamoDB table: one conditional write to take, to renew and to release one.

An item holds the lock of a key. Its attributes:

- ``owner`` exists while the lock is held. An item without it is a released lock, kept so that
  its ``version`` goes on growing.
- ``version`` grows with every acquisition and renewal, and begins at the clock in microseconds, so
  it is higher than that of an item which was purged before. ``data.renewals`` counts the renewals
  among them; the difference is the fencing token, which a renewal leaves alone.
- ``data.nonce`` names the acquisition; it is what the conditions compare.
- ``data.next`` and ``data.nextUntil`` are the reservation of the next turn.
- ``data.releasedBy`` names the acquisition that was released last; a claim with that nonce is
  refused.
- ``stamp`` is that of the last claim that was granted: the clock in microseconds, or more. Only
  claims with a higher one are granted, so it only grows.

So a claim that lands late takes nothing: it is refused after another try of it was granted. When
nobody answered, or the answer was that another holds the lock, the claimant raises the stamp of the
lock to its own before it says so. A claim that is refused only because its clock is behind is sent
again with a higher stamp.

Invariants:

- A lock is taken from a holder only when its lease is over by the clock, with the allowance for
  the skew of clocks, or when nothing has changed since the caller saw it (``seen``). Such a caller
  has watched it for a whole lease by its own clock. The end of a lease is written by the latest
  time that the holder's clock has shown (:mod:`gogoscope_dynamodb.trust`).
- Every write can be sent twice: a claim finds its own nonce, a renewal its own version and end, a
  release its own ``releasedBy``.

The writes are in ``lock_updates``. There is no mutable state here but the last stamp of the store;
all else is in the table.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from gogoscope.exceptions import CorruptRecordError, ThrottledError
from gogoscope.persistence import (
    LockClaim,
    LockHandle,
    LockHolder,
    LockRecord,
    LockReply,
    acquire_once,
    check_key,
    check_lease,
    describe_holder,
    describe_holders,
    urgently,
)
from gogoscope_dynamodb import lock_updates, schema
from gogoscope_dynamodb.answers import Answer, Update
from gogoscope_dynamodb.capability import Capability
from gogoscope_dynamodb.scan import listed
from gogoscope_dynamodb.schema import LOCK, ONE, ZERO, Item, number, purge_time, text
from gogoscope_dynamodb.values import nobody_can_tell

SHORTEST_TIMEOUT = 0.1
MOST_ROUNDS = 8
FORCED = "force"


class Locks(Capability):
    """The methods of a ``LockProvider``."""

    async def acquire(
        self, key: str, ttl: float | timedelta, owner: str | None = None
    ) -> LockHandle | None:
        """Take a lock for ``ttl`` seconds, or return ``None`` if somebody holds it; one write.

        :param key: the lock
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12 hours
        :param owner: a name for ``extend``; the acquisition's nonce if left out
        """
        self._key(LOCK, key)  # refuses a key that is too long for DynamoDB
        return await acquire_once(self, key, ttl, owner)

    async def extend(self, key: str, ttl: float | timedelta, owner: str) -> bool:
        """Let the lease of an owner end ``ttl`` seconds from now; ``False`` if it has none.

        A lease that lasts longer is left as it is: only its holder can end it earlier. One write.
        """
        item_key = self._key(LOCK, key)
        lease_ms = schema.milliseconds(check_lease(ttl))
        check_key(owner, "owner")
        now_ms = self._trust.latest_ms()
        until_ms = now_ms + lease_ms
        values = {":owner": text(owner), ":now": number(now_ms), **_renewal(lease_ms, until_ms)}
        stamp = self._stamp(now_ms)
        for _ in range(MOST_ROUNDS):
            answer = await urgently(
                self._table.update(
                    item_key,
                    lock_updates.EXTEND,
                    {**values, ":stamp": number(stamp)},
                    timeout=self._lease_timeout(lease_ms),
                )
            )
            found = answer.item
            if answer.granted or found is None:
                return answer.granted
            record = schema.decode_lock(found)
            if record.owner != owner or record.lease_until_ms >= until_ms:
                return record.owner == owner
            if record.lease_until_ms <= now_ms or (taken := schema.stamp_of(found)) <= stamp:
                return False
            stamp = taken  # The clock of whoever took the lock is ahead.
        raise _overtaken(key)

    async def force_release(self, key: str) -> bool:
        """Release a lock, whoever holds it; ``False`` if nobody did; one write.

        The write releases who took the lock before now, so one that arrives late releases no other.
        One more is sent for a holder whose clock is ahead. A lock that cannot be understood is
        replaced.
        """
        item_key = self._key(LOCK, key)
        now_ms = self._now_ms()
        stamp = self._stamp(now_ms)
        tomb, ttl = _tombstone(FORCED), purge_time(now_ms)
        values = {":tomb": tomb, ":ttl": ttl, ":stamp": number(stamp), ":zero": ZERO}
        answer = await self._table.update(item_key, lock_updates.FORCE, values)
        for _ in range(MOST_ROUNDS):
            if answer.granted or (found := answer.item) is None:
                return answer.granted
            try:
                record, taken = schema.decode_lock(found), schema.stamp_of(found)
            except CorruptRecordError:
                item = {**item_key, "version": number(now_ms * 1000), "data": tomb}
                answer = await self._table.replace(found, item)
                continue
            if record.nonce is None:
                # The first try of this very request may have released it.
                return answer.in_doubt and record.released_by == FORCED
            if (
                answer.in_doubt
                and record.acquired_at_ms <= self._now_ms() + self._allowed_skew_ms()
            ):
                return True  # Who holds it now has taken it since.
            if answer.in_doubt:
                raise nobody_can_tell(found)  # The holder's clock is ahead: maybe it was there.
            values |= {":nonce": text(record.nonce), ":stamp": number(max(stamp, taken))}
            answer = await self._table.update(item_key, lock_updates.FORCE_SEEN, values)
        raise _overtaken(key)

    async def holder(self, key: str) -> LockHolder | None:
        """Return who holds a lock, or ``None`` if nobody does; one consistent read."""
        return describe_holder(await self.read_lock(key), self.lease_left_ms)

    async def locks(self, pattern: str | None = None) -> dict[str, LockHolder]:
        """List the locks below the store's prefix that are held, each with its holder.

        It reads the whole table, whatever the pattern is, and is charged for that: a tool for
        people, not for every request. A lock that is corrupt is logged and left out.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        found = await listed(
            self._table, LOCK, self._settings.key_prefix, pattern, schema.decode_lock
        )
        return describe_holders(found, self.lease_left_ms)

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Take a lock in one write, or return from the refusal who holds it.

        One more is sent when the answer is in doubt, when a clock is behind that of the last
        holder, and when only the answer shows that the clock may be trusted.
        """
        now_ms = self._now_ms()
        if seen is not None and seen.nonce is not None:
            update = lock_updates.TAKE_OVER
            more = {":seenNonce": text(seen.nonce), ":seenVersion": number(seen.version)}
        elif seen is not None and seen.next_turn is not None:
            update = lock_updates.ACQUIRE_OUT_OF_TURN
            more = {
                ":seenNext": text(seen.next_turn),
                ":seenNextUntil": number(seen.next_until_ms),
            }
        else:
            update = lock_updates.ACQUIRE
            more = {}
        record = await self._claim(key, update, claim, more, now_ms)
        if record is not None and record.nonce == claim.nonce:
            return LockReply(granted=True, record=record)
        return self._reply(record, now_ms, granted=False)

    async def hand_over_lock(self, key: str, nonce: str, claim: LockClaim) -> LockReply:
        """Hand the lock that ``nonce`` holds over to a claim, in one write."""
        more = {":oldNonce": text(nonce)}
        now_ms = self._now_ms()
        record = await self._claim(key, lock_updates.HAND_OVER, claim, more, now_ms)
        granted = record is not None and record.nonce == claim.nonce
        return LockReply(granted=granted, record=record)

    async def _claim(
        self,
        key: str,
        update: Update,
        claim: LockClaim,
        more: dict[str, Any],
        now_ms: int,
    ) -> LockRecord | None:
        """Send a claim with a stamp above that of the lock, and return the lock after that.

        :param more: what the condition compares besides
        """
        item_key = self._key(LOCK, key)
        stamp = self._stamp(now_ms)
        values = {**_taking(claim, now_ms, self._trust.latest_ms()), **more}
        for _ in range(MOST_ROUNDS):
            # A clock that is wrong says nothing of the leases of others: only watching them does.
            trusted = self._trust.given()
            dead_ms = now_ms - self._allowed_skew_ms() if trusted else 0
            values |= {":stamp": number(stamp), ":dead": number(dead_ms)}
            answer = await self._table.update(
                item_key,
                update,
                values,
                timeout=self._lease_timeout(claim.lease_ms),
            )
            if (found := answer.item) is None:
                return None
            record = schema.decode_lock(found)
            if answer.granted or record.nonce == claim.nonce:
                return record
            self._trust.compare(answer.response)
            highest = schema.stamp_of(found)
            outdated = highest >= stamp
            if update is lock_updates.ACQUIRE and record.owner is not None:
                outdated = self._is_over(record, now_ms) and (outdated or not trusted)
            if outdated:
                stamp = max(stamp, highest + 1)
            elif answer.in_doubt and highest < stamp:
                # Another holds the lock, and a try that lands late must not take it after that.
                return await self._bar(key, stamp, found)
            else:
                return record
        raise _overtaken(key)

    async def reserve_lock(self, key: str, turn: str, duration_ms: int) -> LockReply:
        """Reserve the next turn of a held lock for ``duration_ms`` from now; one write.

        With 0, cancel the reservation of ``turn``.
        """
        now_ms = self._now_ms()
        answer = await self._table.update(
            self._key(LOCK, key),
            lock_updates.RESERVE if duration_ms else lock_updates.CANCEL_TURN,
            {
                ":turn": text(turn),
                ":nextUntil": number(now_ms + duration_ms),
                ":now": number(now_ms),
            },
        )
        record = None if answer.item is None else schema.decode_lock(answer.item)
        return self._reply(record, now_ms, granted=answer.granted)

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last until ``until_ms``, or ``lease_ms`` from now if later.

        One write.
        """
        until_ms = max(until_ms, self._trust.latest_ms() + lease_ms)
        answer = await self._table.update(
            self._key(LOCK, key),
            lock_updates.RENEW,
            {
                ":nonce": text(nonce),
                ":seenVersion": number(version),
                **_renewal(lease_ms, until_ms),
            },
            timeout=self._lease_timeout(lease_ms),
        )
        if (found := answer.item) is None:
            return LockReply(granted=False, record=None)
        record = schema.decode_lock(found)
        landed = (record.nonce, record.version, record.lease_until_ms) == (
            nonce,
            version + 1,
            until_ms,
        )
        return LockReply(granted=answer.granted or landed, record=record)

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Release the lock that ``nonce`` holds, keeping its version; ``False`` if it was lost.

        If nobody holds the lock although the lease of ``nonce`` should still run, its claim may
        still be in flight: then a second write makes sure that it is refused when it arrives.
        """
        answer = await self._release(key, nonce)
        found = answer.item
        if answer.granted:
            return True
        if found is not None and schema.decode_lock(found).released_by == nonce:
            return answer.in_doubt
        if not in_time:
            return False
        stamp = max(self._last_stamp, schema.stamp_of(found) + 1)
        record = await self._bar(key, stamp, found, nonce)
        if record.nonce == nonce:  # Its claim has landed in between.
            answer = await self._release(key, nonce)
        return answer.granted or answer.in_doubt

    async def _release(self, key: str, nonce: str) -> Answer:
        values = {":nonce": text(nonce), ":ttl": purge_time(self._now_ms())}
        return await self._table.update(self._key(LOCK, key), lock_updates.RELEASE, values)

    async def _bar(self, key: str, stamp: int, found: Item | None, nonce: str = "") -> LockRecord:
        """Make sure that claims up to a stamp are refused, and return the lock after that.

        :param found: the lock as it was found
        :param nonce: the name of the claim, if the lock is to show that it was released
        """
        now_ms = self._now_ms()
        values = {
            ":stamp": number(stamp),
            ":tomb": _tombstone(nonce),
            ":ttl": purge_time(now_ms),
            ":floor": number(now_ms * 1000),
        }
        for _ in range(MOST_ROUNDS):
            held = found is not None and "owner" in found
            update = lock_updates.BAR if held else lock_updates.BAR_FREE
            answer = await self._table.update(self._key(LOCK, key), update, values)
            found = answer.item
            if found is not None and schema.stamp_of(found) >= stamp:
                return schema.decode_lock(found)
        raise _overtaken(key)

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return a lock as the newest completed write left it; one consistent read."""
        found = await self._table.read(self._key(LOCK, key), consistent=True)
        return None if found is None else schema.decode_lock(found)

    def lease_left_ms(self, record: LockRecord) -> int:
        """Return how long the lease of a record still runs, in milliseconds; makes no request."""
        return record.lease_until_ms - self._now_ms()

    def _reply(self, record: LockRecord | None, now_ms: int, *, granted: bool) -> LockReply:
        if record is None or record.owner is None:
            return LockReply(granted=granted, record=record)
        dead_in_ms = max(0, record.lease_until_ms + self._allowed_skew_ms() + 1 - now_ms)
        return LockReply(granted=granted, record=record, dead_in_ms=dead_in_ms)

    def _is_over(self, record: LockRecord, now_ms: int) -> bool:
        return self._trust.given() and record.lease_until_ms < now_ms - self._allowed_skew_ms()

    def _lease_timeout(self, lease_ms: int) -> float:
        """Return how long one try may take: a quarter of the lease, so that three fit into it."""
        return min(self._table.timeout, max(SHORTEST_TIMEOUT, lease_ms / 4000))


def _taking(claim: LockClaim, now_ms: int, latest_ms: int) -> dict[str, Any]:
    return {
        ":owner": text(claim.owner),
        ":nonce": text(claim.nonce),
        ":turn": text(claim.turn or claim.nonce),
        ":lease": schema.encode_lease(claim, latest_ms),
        ":floor": number(now_ms * 1000),
        ":ttl": purge_time(latest_ms + claim.lease_ms),
        ":now": number(now_ms),
        ":one": ONE,
    }


def _renewal(lease_ms: int, until_ms: int) -> dict[str, dict[str, str]]:
    return {
        ":one": ONE,
        ":zero": ZERO,
        ":until": number(until_ms),
        ":leaseMs": number(lease_ms),
        ":ttl": purge_time(until_ms),
    }


def _tombstone(released_by: str) -> dict[str, Any]:
    return {"M": {"releasedBy": text(released_by)}}


def _overtaken(key: str) -> ThrottledError:
    return ThrottledError(f"lock {key!r} changed {MOST_ROUNDS} times while it was written")
