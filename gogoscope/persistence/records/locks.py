"""Locks over any place for records."""

from __future__ import annotations

import math
from datetime import timedelta

from gogoscope.persistence.lock_claims import acquire_once
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import (
    LockClaim,
    LockHolder,
    LockRecord,
    LockReply,
    describe_holder,
    describe_holders,
)
from gogoscope.persistence.records.place import RecordCapability, json_kind
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.persistence.urgency import urgently
from gogoscope.persistence.validation import check_key, check_lease

LOCKS = json_kind(
    "lock", LockRecord, lock_rules.purge_at_ms, awaited=lambda lock: lock.nonce is None
)


class RecordLocks(RecordCapability):
    """A ``LockProvider``: every method is one transaction on one record."""

    async def acquire(
        self, key: str, ttl: float | timedelta, owner: str | None = None
    ) -> LockHandle | None:
        """Take a lock for ``ttl`` seconds, or return ``None`` if somebody holds it.

        :param key: the lock
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12 hours
        :param owner: a name for ``extend``; the acquisition's nonce if left out
        """
        return await acquire_once(self, key, ttl, owner)

    async def extend(self, key: str, ttl: float | timedelta, owner: str) -> bool:
        """Let the lease of an owner last ``ttl`` more seconds; ``False`` if it has none.

        One that lasts longer is left as it is: only its holder can end it earlier.
        """
        lease = check_lease(ttl)
        check_key(owner, "owner")
        extending = self._change_lease(
            LOCKS, key, lock_rules.extend, owner, math.ceil(lease * 1000)
        )
        return await urgently(extending, lease=lease)

    async def force_release(self, key: str) -> bool:
        """Free a lock, whoever holds it; ``False`` if nobody did.

        A record that is corrupt is removed.
        """
        return await self._change_or_remove(LOCKS, key, lock_rules.force_release) is not False

    async def holder(self, key: str) -> LockHolder | None:
        """Return who holds a lock, or ``None`` if nobody does."""
        return describe_holder(await self.read_lock(key), self.lease_left_ms)

    async def locks(self, pattern: str | None = None) -> dict[str, LockHolder]:
        """List the locks below the store's prefix that are held, each with its holder.

        One that is corrupt is logged and left out.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        return describe_holders(await self._listed(LOCKS, pattern), self.lease_left_ms)

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Take a lock in one write, or learn from the refusal who has it."""
        return await self._claim_lease(
            LOCKS,
            key,
            lock_rules.claim,
            claim,
            seen=seen,
        )

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last until ``until_ms``, or ``lease_ms`` from now if later."""
        return await self._change_lease(
            LOCKS, key, lock_rules.renew, nonce, version, lease_ms, until_ms
        )

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Free the lock that ``nonce`` holds, keeping its version; ``False`` if it was lost.

        If nobody holds the lock although the lease of ``nonce`` should still run, its claim may
        still be on its way: it is refused when it arrives.
        """
        free = lock_rules.take_back if in_time else lock_rules.release
        return await self._change(LOCKS, key, free, nonce)

    async def hand_over_lock(self, key: str, nonce: str, claim: LockClaim) -> LockReply:
        """Pass the lock that ``nonce`` holds on to a claim, in one write."""
        return await self._change_lease(LOCKS, key, lock_rules.hand_over, nonce, claim)

    async def reserve_lock(self, key: str, turn: str, duration_ms: int) -> LockReply:
        """Reserve the next turn of a lock that is held, for ``duration_ms`` from now."""
        return await self._change_lease(
            LOCKS, key, lock_rules.reserve, turn, duration_ms, skew_ms=self._skew_now_ms()
        )

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return a lock as the newest completed write left it."""
        return await self._records.read(LOCKS, self._full_key(key))

    def lease_left_ms(self, record: LockRecord) -> int:
        """Return how long the lease of a record still runs, in milliseconds; makes no request."""
        return self._left_ms(record)
