"""What a store of locks can do."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol, runtime_checkable

from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LeaseStore, LockClaim, LockHolder, LockReply


@runtime_checkable
class LockProvider(LeaseStore, Protocol):
    """Keeps locks: leases with an owner and a fencing token."""

    async def acquire(
        self, key: str, ttl: float | timedelta, owner: str | None = None
    ) -> LockHandle | None:
        """Take a lock for ``ttl`` seconds, or return ``None`` if somebody holds it.

        :param key: the lock
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12 hours
        :param owner: a name for ``extend``; the acquisition's nonce if left out. An owner that
            holds the lock does not get it twice.
        """
        ...

    async def extend(self, key: str, ttl: float | timedelta, owner: str) -> bool:
        """Let the lease of an owner last ``ttl`` more seconds; ``False`` if it has none.

        One that lasts longer is left as it is: only its holder can end it earlier.
        """
        ...

    async def force_release(self, key: str) -> bool:
        """Free a lock, whoever holds it; ``False`` if nobody did."""
        ...

    async def holder(self, key: str) -> LockHolder | None:
        """Return who holds a lock, or ``None`` if nobody does."""
        ...

    async def locks(self, pattern: str | None = None) -> dict[str, LockHolder]:
        """List the locks below the store's prefix that are held, each with its holder.

        A lock whose lease is over is listed until it is taken over or released. One that is
        corrupt is logged and left out.

        :param pattern: a case-sensitive glob over whole keys, as for ``CacheProvider.keys``
        """
        ...

    async def hand_over_lock(self, key: str, nonce: str, claim: LockClaim) -> LockReply:
        """Pass the lock that ``nonce`` holds on to a claim, in one write.

        Refused with the same nonce: the next turn is reserved by somebody else, so the lock must
        be released. Refused otherwise: the lease of ``nonce`` is lost.
        """
        ...

    async def reserve_lock(self, key: str, turn: str, duration_ms: int) -> LockReply:
        """Reserve the next turn of a lock that is held, for ``duration_ms`` from now.

        Only a claim with that ``turn`` is granted meanwhile. It is refused when the lock is free,
        or when its next turn is reserved under another name. A release keeps a reservation, an
        acquisition ends it; the version stays. A duration of 0 ends a reservation of the same
        name, that of a free lock too.
        """
        ...
