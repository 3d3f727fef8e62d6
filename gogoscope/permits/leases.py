"""The permits of a store, as leases."""

from __future__ import annotations

from collections.abc import Mapping

from gogoscope.permits.wish import Wish
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.permit_records import PermitClaim, PermitReply, PermitsRecord
from gogoscope.persistence.protocols.permits import PermitProvider
from gogoscope.persistence.rules.permits import successor


class PermitLeases:
    """The permits that one caller may get, as the leases that a ``LockHandle`` knows.

    ``turn_ms`` and ``dead`` go with the next claim: how long a turn is reserved, and whose lease
    is over. ``found`` is what the last answer to a claim showed.
    """

    __slots__ = ("_nonce", "_provider", "_wish", "dead", "found", "turn_ms")

    def __init__(self, provider: PermitProvider, wish: Wish) -> None:
        self._provider = provider
        self._wish = wish
        self._nonce = ""
        self.turn_ms = 0
        self.dead: Mapping[str, int] = {}
        self.found: PermitsRecord | None = None

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Take a permit in one write, or learn who holds them."""
        reply = await self._provider.claim_permit(
            self._wish.kind, key, self.claim(claim), dead=self.dead
        )
        return self.reply(claim, reply)

    async def hand_over(self, key: str, nonce: str, claim: LockClaim) -> PermitReply:
        """Take a permit in the write that frees the one of ``nonce``."""
        reply = await self._provider.hand_over_permit(
            self._wish.kind, key, nonce, self.claim(claim)
        )
        self.reply(claim, reply)
        return reply

    def claim(self, claim: LockClaim) -> PermitClaim:
        """Return the claim of a permit."""
        return PermitClaim(claim, self._wish.limit, self._wish.takes, self.turn_ms)

    def reply(self, claim: LockClaim, reply: PermitReply) -> LockReply:
        """Return the answer to a claim as that of a lock; its lease is that of the caller."""
        self.found = reply.record
        if not reply.granted or reply.record is None:
            return LockReply(granted=False, record=None, dead_in_ms=reply.dead_in_ms)
        self._nonce = claim.nonce
        return LockReply(granted=True, record=reply.record.holders[claim.nonce].lease)

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last longer."""
        return await self._provider.renew_permit(
            self._wish.kind, key, nonce, version, lease_ms, until_ms
        )

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Free the permit of ``nonce``."""
        return await self._provider.release_permit(self._wish.kind, key, nonce)

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return the lease of the permit that was granted, or else of whoever came later."""
        record = await self._provider.read_permits(self._wish.kind, key)
        held = None if record is None else record.holders.get(self._nonce)
        return successor(record, 0) if held is None else held.lease

    def lease_left_ms(self, record: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds."""
        return self._provider.permit_left_ms(record)
