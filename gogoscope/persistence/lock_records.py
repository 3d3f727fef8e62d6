"""What a store keeps of a lock, what it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self, runtime_checkable

from attrs import field, frozen

from gogoscope._core.clock import Clock, resolved, timeline_of
from gogoscope.persistence.stored import check_fields, checks_of
from gogoscope.persistence.validation import TOLD_BY_EVERY_LOCK


@frozen
class Steady:
    """A time that no setting of a clock changes: milliseconds since its timeline began.

    Only times of one timeline can be compared: of one boot of a machine, say.
    """

    timeline: str
    ms: int

    @classmethod
    def of(cls, clock: Clock) -> Self:
        """Return what a clock shows."""
        clock = resolved(clock)
        return cls(timeline_of(clock), round(clock.elapsed() * 1000))


@frozen
class LockClaim:
    """What is written into a lock to take it.

    ``nonce`` is fresh for each acquisition and is what every condition compares; ``owner`` is for
    people and for ``extend(key, ttl, owner)``; ``lease_ms`` is how long the lock lasts unless it
    is renewed; ``metadata`` tells people who holds it (host, pid, scope); ``turn`` is the name
    under which the next turn may be reserved for this claim.
    """

    nonce: str
    owner: str
    lease_ms: int
    metadata: Mapping[str, str] = field(factory=dict)
    turn: str | None = None

    def __attrs_post_init__(self) -> None:
        check_fields(CLAIM_CHECKS, self, "claim")


CLAIM_CHECKS = checks_of(LockClaim)
"""What is written is checked before any store writes it."""


@frozen
class LockRecord:
    """A lock as it is stored; one that was released keeps its ``version``.

    ``version`` starts at the clock in microseconds and only grows. ``fencing_token`` is the
    version as the acquiring write left it: later acquisitions have higher ones, renewals the same.
    ``next_turn`` is the name under which the next turn is reserved, ``next_until_ms`` until when.
    ``released_by`` is the nonce that released the lock last, so that a late claim of it is refused.

    ``timeline`` and ``steady_until_ms`` say when the lease ends if the store counts leases by a
    steady clock (see :class:`Steady`). ``lease_until_ms`` is only for people then, and
    ``next_until_ms`` is on the steady clock, too.
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
    timeline: str | None = None
    steady_until_ms: int = 0


@frozen
class LockReply:
    """The answer to a write: whether it was granted, and the lock as it is now.

    ``dead_in_ms`` comes with a lock that somebody else holds: in how many milliseconds its lease
    will be over by the store's clock with its allowance; 0 if it is over, or if that is not known.
    """

    granted: bool
    record: LockRecord | None
    dead_in_ms: int = 0


@frozen
class LockHolder:
    """Who holds a lock, for people.

    ``since`` is in seconds since the Unix epoch. ``lease_left`` is in seconds and only a hint,
    since it compares the clocks of two machines. ``metadata`` is what else the holder told.
    """

    owner: str
    host: str | None
    pid: int | None
    scope: str | None
    since: float
    lease_left: float
    fencing_token: int
    metadata: Mapping[str, str] = field(factory=dict)


LONGEST_PID = 18


LOCK_CHECKS = checks_of(LockRecord)


def check_lock(record: LockRecord) -> None:
    """Check a lock that was read.

    :raises TypeError: if a field is of another type
    :raises ValueError: if one is out of range
    """
    check_fields(LOCK_CHECKS, record, "lock")


def describe_holder(
    record: LockRecord | None, lease_left_ms: Callable[[LockRecord], int]
) -> LockHolder | None:
    """Return what people want to know about a lock's holder, or ``None`` if it is free.

    :param lease_left_ms: tells how long the lease of a record still runs, in milliseconds
    """
    if record is None or record.owner is None:
        return None
    pid = record.metadata.get("pid", "")
    return LockHolder(
        owner=record.owner,
        host=record.metadata.get("host"),
        pid=int(pid) if pid.isdecimal() and len(pid) <= LONGEST_PID else None,
        scope=record.metadata.get("scope"),
        since=record.acquired_at_ms / 1000,
        lease_left=lease_left_ms(record) / 1000,
        fencing_token=record.fencing_token,
        metadata={
            name: value for name, value in record.metadata.items() if name not in TOLD_BY_EVERY_LOCK
        },
    )


def describe_holders(
    records: Mapping[str, LockRecord], lease_left_ms: Callable[[LockRecord], int]
) -> dict[str, LockHolder]:
    """Return the holders of those locks that are held.

    :param lease_left_ms: as for :func:`describe_holder`
    """
    described = {key: describe_holder(record, lease_left_ms) for key, record in records.items()}
    return {key: holder for key, holder in described.items() if holder is not None}


@runtime_checkable
class LeaseStore(Protocol):
    """Takes, renews, releases and reads leases: what a ``LockHandle`` needs of its store."""

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Take a lock in one write, or learn from the refusal who has it.

        It is granted when the lock is absent or released, or its lease is over by the clock with
        the store's allowance for skew, and the next turn is not reserved by somebody else. A claim
        whose nonce already holds the lock is granted: an earlier try landed.

        With ``seen`` no clock is trusted: it is granted only if the caller has watched the lock on
        its own clock for long enough, and it has not changed since. A lock that is held has been
        watched for a whole lease, and its nonce and version are compared; of one that is free the
        reservation has been watched for as long as one lasts, and is compared.
        """
        ...

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last until ``until_ms``, or ``lease_ms`` from now if later.

        It is granted when ``nonce`` holds the lock at ``version``; the reply's version is the one
        for the next renewal. Refused with the same nonce at another version: somebody extended it
        by its owner's name. Refused otherwise: the lease is lost.
        """
        ...

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Free the lock that ``nonce`` holds, keeping its version; ``False`` if it was lost.

        :param in_time: whether the lease still ran when the release was called for; if so, a retry
            that finds the lock held by another knows that the first try freed it
        """
        ...

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return a lock as the newest completed write left it."""
        ...

    def lease_left_ms(self, record: LockRecord) -> int:
        """Return how long the lease of a record still runs by the store's clock; makes no request.

        In milliseconds, and not positive if it is over: others that see the same time may take the
        lock then.
        """
        ...
