"""What a store of semaphores and read/write locks can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from gogoscope.persistence.lock_records import LockRecord, LockReply
from gogoscope.persistence.permit_records import (
    PermitClaim,
    PermitKind,
    PermitReply,
    PermitsRecord,
    ReadWriteLock,
    Semaphore,
)


@runtime_checkable
class PermitProvider(Protocol):
    """Keeps who holds the permits of semaphores and of read/write locks.

    A reader takes one permit of a read/write lock, a writer takes all. ``kind`` says which of the
    two a key names.
    """

    async def claim_permit(
        self,
        kind: PermitKind,
        key: str,
        claim: PermitClaim,
        *,
        dead: Mapping[str, int] | None = None,
    ) -> PermitReply:
        """Take a permit in one write, or learn from the refusal who holds them.

        It is granted when it fits beside those that are held, and beside all who wait and came
        before: see the rules. A permit whose lease is over by the clock with the store's allowance
        for skew is removed. A claim whose nonce holds a permit already is granted: an earlier try
        landed. A refused one reserves its turn, or renews it, if it asks for that.

        :param dead: the versions, by nonce or turn, that the caller has watched unchanged on its
            own clock for a whole lease; they are removed, too, if they still have that version
        """
        ...

    async def hand_over_permit(
        self, kind: PermitKind, key: str, nonce: str, claim: PermitClaim
    ) -> PermitReply:
        """Free the permit of ``nonce`` and grant a claim, if it fits then, in one write."""
        ...

    async def renew_permit(
        self, kind: PermitKind, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of the permit of ``nonce`` last longer, as ``renew_lock`` does."""
        ...

    async def release_permit(self, kind: PermitKind, key: str, nonce: str) -> bool:
        """Free the permit of ``nonce``; ``False`` if it was lost.

        If it holds none, the claim of ``nonce`` may still be on its way: it is refused when it
        lands.
        """
        ...

    async def leave_turn(self, kind: PermitKind, key: str, turn: str) -> bool:
        """Give up a turn that was reserved; ``False`` if there was none."""
        ...

    async def read_permits(self, kind: PermitKind, key: str) -> PermitsRecord | None:
        """Return the permits as the newest completed write left them; ``None`` for none."""
        ...

    def permit_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        ...

    async def semaphores(self, pattern: str | None = None) -> dict[str, Semaphore]:
        """List the semaphores that somebody holds or waits for.

        A permit whose lease is over is listed until somebody else takes one.

        :param pattern: a glob over whole keys, as for ``keys``
        """
        ...

    async def read_write_locks(self, pattern: str | None = None) -> dict[str, ReadWriteLock]:
        """List the read/write locks that somebody holds or waits for, as :meth:`semaphores`."""
        ...

    async def force_release_permits(
        self, kind: PermitKind, key: str, fencing_token: int | None = None
    ) -> int:
        """Free the permits of a semaphore or read/write lock, whoever holds them.

        :param fencing_token: that of the only permit to free; ``None`` for all
        :returns: how many were held
        """
        ...
