"""What a store keeps of a lock, what it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from attrs import field, frozen


@frozen
class LockClaim:
    """What somebody who wants a lock writes into it.

    ``nonce`` is fresh for each acquisition and is what every condition compares; ``owner`` is for
    people and for ``extend(key, ttl, owner)``; ``lease_ms`` is how long the lock lasts unless it
    is renewed; ``metadata`` tells people who it is (host, pid, scope); ``turn`` is the name under
    which it may have reserved the next turn.
    """

    nonce: str
    owner: str
    lease_ms: int
    metadata: Mapping[str, str] = field(factory=dict)
    turn: str | None = None


@frozen
class LockRecord:
    """A lock as it is stored; one that was released keeps its ``version``.

    ``version`` starts at the clock in microseconds and only grows. ``fencing_token`` is the
    version as the acquiring write left it: later acquisitions have higher ones, renewals the same.
    ``next_turn`` is who reserved the next turn, ``next_until_ms`` until when.
    """

    version: int
    fencing_token: int
    owner: str | None = None
    nonce: str | None = None
    lease_ms: int = 0
    lease_until_ms: int = 0
    acquired_at_ms: int = 0
    metadata: Mapping[str, str] = field(factory=dict)
    released_by: str | None = None
    next_turn: str | None = None
    next_until_ms: int = 0


@frozen
class LockReply:
    """The answer to a write: whether it was granted, and the lock as it now is.

    ``dead_in_ms`` comes with a lock that somebody else holds: in how many milliseconds its lease
    will be over by the store's clock with its allowance; 0 if it is, or if that is not known.
    """

    granted: bool
    record: LockRecord | None
    dead_in_ms: int = 0


@frozen
class LockHolder:
    """Who holds a lock, for people.

    ``since`` is in seconds since the Unix epoch. ``lease_left`` is in seconds and only a hint,
    since it compares the clocks of two machines. ``metadata`` is what the holder told besides.
    """

    owner: str
    host: str | None
    pid: int | None
    scope: str | None
    since: float
    lease_left: float
    fencing_token: int
    metadata: Mapping[str, str] = field(factory=dict)


@runtime_checkable
class LeaseStore(Protocol):
    """Takes, renews, releases and reads leases: what a :class:`LockHandle` needs of its store."""

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Take a lock in one write, or learn from the refusal who has it.

        It is granted when the lock is absent or released or its lease is over by the clock with
        the store's allowance for skew, and nobody else's reservation runs. A claim whose nonce
        already holds the lock is granted: an earlier try landed.

        With ``seen`` no clock is trusted: it is granted only when what the caller watched on its
        own clock has not changed. If ``seen`` is held, that is its nonce and version, watched for
        a whole lease; if it is free, its reservation, watched for as long as one lasts.
        """
        ...

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last ``lease_ms``, until ``until_ms``.

        It is granted when ``nonce`` holds the lock at ``version``; the reply's version is the one
        for the next renewal. Refused with the same nonce at another version: somebody extended it
        by its owner's name. Refused otherwise: the lease is lost.
        """
        ...

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Free the lock that ``nonce`` holds, keeping its version; ``False`` if it was lost.

        :param in_time: whether the holder's lease still ran when it called; then a retry that
            finds the lock in other hands knows that its first try freed it
        """
        ...

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return a lock as the newest completed write left it."""
        ...
