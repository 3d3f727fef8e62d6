"""Locks in a DynamoDB table: one conditional write to take, to renew and to release one.

An item holds the lock of a key. Its attributes:

- ``owner`` exists while the lock is held. An item without it is a released lock, kept so that
  its ``version`` goes on growing.
- ``version`` grows with every acquisition and renewal, and begins at the clock in microseconds, so
  it is higher than that of an item which was purged before. ``data.renewals`` counts the renewals
  among them; the difference is the fencing token, which a renewal leaves alone.
- ``data.nonce`` names the acquisition; it is what the conditions compare.
- ``data.next`` and ``data.nextUntil`` are the reservation of the next turn.
- ``data.releasedBy`` names the acquisition that was released last. A claim with that nonce is
  refused, so that one that arrives late takes nothing.

Invariants:

- A lock is taken from a holder only when its lease is over by the clock, with the allowance for
  the skew of clocks, or when nothing has changed since the caller saw it (``seen``). Such a caller
  has watched it for a whole lease by its own clock.
- Every write can be sent twice: a claim finds its own nonce, a renewal its own version and end, a
  release its own ``releasedBy``.

There is no mutable state here: all of it is in the table.
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
)
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.answers import Update
from gogoscope_dynamodb.capability import Capability
from gogoscope_dynamodb.schema import LOCK, ONE, ZERO, Item, number, purge_time, text

SHORTEST_TIMEOUT = 0.1
MOST_ROUNDS = 8
FORCED = "force"

_TAKE = "SET #owner = :owner, #data = :lease, #expiresAt = :ttl, "
_NEXT_VERSION = "#version = if_not_exists(#version, :floor) + :one"
_ANOTHER_RENEWAL = (
    "SET #version = #version + :one, "
    "#data.#renewals = if_not_exists(#data.#renewals, :zero) + :one, "
    "#data.#leaseUntil = :until, #data.#leaseMs = :leaseMs, #expiresAt = :ttl"
)

_FREE = (
    "attribute_not_exists(#owner) AND "
    "(attribute_not_exists(#data.#releasedBy) OR #data.#releasedBy <> :nonce)"
)
_IN_TURN = "(attribute_not_exists(#data.#next) OR #data.#next = :turn OR #data.#nextUntil < :now)"

_ACQUIRE = Update(_TAKE + _NEXT_VERSION, f"(({_FREE}) OR #data.#leaseUntil < :dead) AND {_IN_TURN}")
_ACQUIRE_OUT_OF_TURN = Update(
    _TAKE + _NEXT_VERSION,
    f"{_FREE} AND #data.#next = :seenNext AND #data.#nextUntil = :seenNextUntil",
)
_TAKE_OVER = Update(_TAKE + _NEXT_VERSION, "#data.#nonce = :seenNonce AND #version = :seenVersion")
_RENEW = Update(_ANOTHER_RENEWAL, "#data.#nonce = :nonce AND #version = :seenVersion")
_EXTEND = Update(
    _ANOTHER_RENEWAL,
    "#owner = :owner AND #data.#leaseUntil > :now AND #data.#leaseUntil < :until",
    "NONE",
)
_HAND_OVER = Update(
    _TAKE + "#version = #version + :one",
    f"#data.#nonce = :oldNonce AND {_IN_TURN}",
)
_RESERVE = Update(
    "SET #data.#next = :turn, #data.#nextUntil = :nextUntil",
    f"attribute_exists(#data.#nonce) AND {_IN_TURN}",
)
_CANCEL_TURN = Update("REMOVE #data.#next, #data.#nextUntil", "#data.#next = :turn")
_RELEASE = Update(
    "SET #data.#releasedBy = :nonce, #expiresAt = :ttl REMOVE #owner, "
    "#data.#nonce, #data.#leaseMs, #data.#leaseUntil, #data.#acquiredAt, #data.#meta",
    "#data.#nonce = :nonce",
    "NONE",
)
_REFUSE_CLAIM = Update(
    "SET #data.#releasedBy = :nonce, #expiresAt = :ttl",
    "attribute_exists(#data.#releasedBy) AND attribute_not_exists(#owner)",
    "NONE",
)
_REFUSE_FIRST_CLAIM = Update(
    "SET #data = :tomb, #expiresAt = :ttl, #version = :floor", "attribute_not_exists(#pk)", "NONE"
)
_FREE_BY_FORCE = "SET #data = :tomb, #expiresAt = :ttl REMOVE #owner"
_FORCE = Update(
    _FREE_BY_FORCE,
    "attribute_exists(#data.#nonce) AND #data.#acquiredAt <= :now AND #version > :zero",
    "NONE",
)
_FORCE_SEEN = Update(_FREE_BY_FORCE, "#data.#nonce = :nonce", "NONE")


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
        now_ms = self._now_ms()
        until_ms = now_ms + lease_ms
        answer = await self._table.update(
            item_key,
            _EXTEND,
            {":owner": text(owner), ":now": number(now_ms), **_renewal(lease_ms, until_ms)},
            timeout=self._lease_timeout(lease_ms),
            urgent=True,
        )
        found = answer.item
        if answer.granted or found is None:
            return answer.granted
        record = schema.decode_lock(found)
        return record.owner == owner and record.lease_until_ms >= until_ms

    async def force_release(self, key: str) -> bool:
        """Release a lock, whoever holds it; ``False`` if nobody did; one write.

        The write releases who took the lock before now, so one that arrives late releases no other.
        One more is sent for a holder whose clock is ahead. A lock that cannot be understood is
        replaced.
        """
        item_key = self._key(LOCK, key)
        now_ms = self._now_ms()
        ending = {":tomb": _tombstone(FORCED), ":ttl": purge_time(now_ms), ":zero": ZERO}
        answer = await self._table.update(item_key, _FORCE, {":now": number(now_ms), **ending})
        for _ in range(MOST_ROUNDS):
            if answer.granted or (found := answer.item) is None:
                return answer.granted
            try:
                record = schema.decode_lock(found)
            except CorruptRecordError:
                item = {**item_key, "version": number(now_ms * 1000), "data": ending[":tomb"]}
                answer = await self._table.replace(found, item)
                continue
            if record.nonce is None:
                # The first try of this very request may have released it.
                return answer.in_doubt and record.released_by == FORCED
            if answer.in_doubt:
                return True  # Who holds it now has taken it since.
            nonce = {":nonce": text(record.nonce)}
            answer = await self._table.update(item_key, _FORCE_SEEN, {**nonce, **ending})
        raise ThrottledError(f"lock {key!r} changed hands {MOST_ROUNDS} times while it was forced")

    async def holder(self, key: str) -> LockHolder | None:
        """Return who holds a lock, or ``None`` if nobody does; one consistent read."""
        return describe_holder(await self.read_lock(key), self.lease_left_ms)

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Take a lock in one write, or return from the refusal who holds it."""
        item_key = self._key(LOCK, key)
        now_ms = self._now_ms()
        # A clock that was set says nothing of the leases of others: then only watching them does.
        dead_ms = 0 if self._clock_steps.stepped() else now_ms - self._skew_ms()
        values = {
            **_taking(claim, now_ms),
            ":dead": number(dead_ms),
            ":floor": number(now_ms * 1000),
        }
        timeout = self._lease_timeout(claim.lease_ms)
        update = _ACQUIRE
        if seen is not None and seen.nonce is not None:
            update = _TAKE_OVER
            values[":seenNonce"] = text(seen.nonce)
            values[":seenVersion"] = number(seen.version)
        elif seen is not None and seen.next_turn is not None:
            update = _ACQUIRE_OUT_OF_TURN
            values[":seenNext"] = text(seen.next_turn)
            values[":seenNextUntil"] = number(seen.next_until_ms)
        answer = await self._table.update(item_key, update, values, timeout=timeout)
        found = answer.item
        if found is None:
            return LockReply(granted=False, record=None)
        record = schema.decode_lock(found)
        if record.nonce == claim.nonce:
            return LockReply(granted=True, record=record)
        return self._reply(record, now_ms, granted=False)

    async def hand_over_lock(self, key: str, nonce: str, claim: LockClaim) -> LockReply:
        """Hand the lock that ``nonce`` holds over to a claim, in one write."""
        answer = await self._table.update(
            self._key(LOCK, key),
            _HAND_OVER,
            {":oldNonce": text(nonce), **_taking(claim, self._now_ms())},
            timeout=self._lease_timeout(claim.lease_ms),
            urgent=True,
        )
        if (found := answer.item) is None:
            return LockReply(granted=False, record=None)
        record = schema.decode_lock(found)
        return LockReply(granted=record.nonce == claim.nonce, record=record)

    async def reserve_lock(self, key: str, turn: str, duration_ms: int) -> LockReply:
        """Reserve the next turn of a held lock for ``duration_ms`` from now; one write.

        With 0, cancel the reservation of ``turn``.
        """
        now_ms = self._now_ms()
        answer = await self._table.update(
            self._key(LOCK, key),
            _RESERVE if duration_ms else _CANCEL_TURN,
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
        until_ms = max(until_ms, self._now_ms() + lease_ms)
        answer = await self._table.update(
            self._key(LOCK, key),
            _RENEW,
            {
                ":nonce": text(nonce),
                ":seenVersion": number(version),
                **_renewal(lease_ms, until_ms),
            },
            timeout=self._lease_timeout(lease_ms),
            urgent=True,
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
        item_key = self._key(LOCK, key)
        now_ms = self._now_ms()
        ending = {":nonce": text(nonce), ":ttl": purge_time(now_ms)}
        answer = await self._table.update(item_key, _RELEASE, ending, urgent=True)
        if answer.granted:
            return True
        found = answer.item
        if found is not None and schema.decode_lock(found).released_by == nonce:
            return answer.in_doubt
        if not in_time:
            return False
        return await self._refuse_claim(item_key, nonce, found) or answer.in_doubt

    async def _refuse_claim(self, item_key: Item, nonce: str, found: Item | None) -> bool:
        """Make sure that a claim in flight is refused; return whether it had taken the lock."""
        now_ms = self._now_ms()
        values = {
            ":nonce": text(nonce),
            ":tomb": _tombstone(nonce),
            ":ttl": purge_time(now_ms),
            ":floor": number(now_ms * 1000),
        }
        for _ in range(MOST_ROUNDS):
            if found is None:
                update = _REFUSE_FIRST_CLAIM
            elif "owner" not in found:
                update = _REFUSE_CLAIM
            elif schema.decode_lock(found).nonce == nonce:
                update = _RELEASE
            else:
                return False
            answer = await self._table.update(item_key, update, values)
            if answer.granted:
                return update is _RELEASE
            found = answer.item
        return False

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
        dead_in_ms = max(0, record.lease_until_ms + self._skew_ms() + 1 - now_ms)
        return LockReply(granted=granted, record=record, dead_in_ms=dead_in_ms)

    def _skew_ms(self) -> int:
        return schema.milliseconds(self._settings.max_clock_skew)

    def _lease_timeout(self, lease_ms: int) -> float:
        """Return how long one try may take: a quarter of the lease, so that three fit into it."""
        return min(self._table.timeout, max(SHORTEST_TIMEOUT, lease_ms / 4000))


def _taking(claim: LockClaim, now_ms: int) -> dict[str, Any]:
    return {
        ":owner": text(claim.owner),
        ":nonce": text(claim.nonce),
        ":turn": text(claim.turn or claim.nonce),
        ":lease": schema.encode_lease(claim, now_ms),
        ":ttl": purge_time(now_ms + claim.lease_ms),
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
