"""What a store can do: one small Protocol for each capability, and the records they speak of.

The method names of the capabilities are disjoint, so that one object may have all of them. Every
method is atomic: whoever else works on the same key at the same time, in this process or another,
sees all of its effect or none. A cancelled method leaves its effect done or not done, never half.

Times inside records are integer milliseconds since the Unix epoch; durations that a caller passes
are seconds. A store fails with a :class:`~gogoscope.exceptions.PersistenceError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import field, frozen

from gogoscope.persistence.circuit_protocol import DEFAULT_OPEN_MS as DEFAULT_OPEN_MS
from gogoscope.persistence.circuit_protocol import CircuitBreakerState as CircuitBreakerState
from gogoscope.persistence.circuit_protocol import (
    CircuitBreakerStateProvider as CircuitBreakerStateProvider,
)
from gogoscope.persistence.circuit_protocol import CircuitState as CircuitState
from gogoscope.persistence.circuit_protocol import FailureReport as FailureReport
from gogoscope.persistence.circuit_protocol import ProbeReply as ProbeReply

if TYPE_CHECKING:
    from gogoscope.persistence.lock_handle import LockHandle


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
class LockProvider(Protocol):
    """Keeps locks: leases with an owner and a fencing token."""

    async def acquire(
        self, key: str, ttl: float | timedelta, owner: str | None = None
    ) -> LockHandle | None:
        """Take a lock for ``ttl`` seconds, or give ``None`` if somebody holds it.

        :param key: the lock
        :param ttl: the lease in seconds, at most 12 hours
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
        """Tell who holds a lock, or ``None`` if nobody does."""
        ...

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

    async def hand_over_lock(self, key: str, nonce: str, claim: LockClaim) -> LockReply:
        """Pass the lock that ``nonce`` holds on to a claim, in one write.

        Refused with the same nonce: somebody else's reservation runs, so release. Refused
        otherwise: the lease of ``nonce`` is lost.
        """
        ...

    async def reserve_lock(self, key: str, turn: str, duration_ms: int) -> LockReply:
        """Reserve the next turn of a lock that is held, for ``duration_ms`` from now.

        Only a claim with that ``turn`` is granted meanwhile. It is refused when the lock is free
        or the reservation of another runs. A release keeps a reservation, an acquisition ends it;
        the version stays. With 0 it gives back a reservation, of a free lock too.
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
        """Give a lock as the newest completed write left it."""
        ...


@frozen
class CacheEntry:
    """A cached value and when it ends.

    ``until_ms`` is its end by the store's clock, ``None`` for never; ``left`` are the seconds that
    were left of it when it was read, ``math.inf`` for ever. Of a value that is kept beyond its time
    they are 0 or less: minus the seconds since then.
    """

    value: Any
    until_ms: int | None
    left: float


@runtime_checkable
class CacheProvider(Protocol):
    """Keeps JSON-shaped values under keys, for ever or for a time.

    Methods of many keys check all their arguments before they change anything. Each key is changed
    atomically. Whether the whole batch is depends on the store: in memory and on SQLite it is one
    transaction, but for reads of more than a thousand keys; on DynamoDB it is not, so
    that others may see a part of it, and a part of it may be done when it fails or is cancelled.
    """

    async def get(self, key: str, default: Any = None) -> Any:
        """Give the value of a key, or ``default`` if it has none."""
        ...

    async def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Give the value of a key with its end, or ``None`` if it has none.

        :param latest: whether to see every write that was completed before, also where ``get``
            may miss the last ones, as on DynamoDB
        :param stale: whether to give a value that is kept beyond its time, too
        """
        ...

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Give the values of those keys that have one."""
        ...

    async def set(
        self,
        key: str,
        value: Any,
        ttl: float | timedelta | None = None,
        *,
        if_absent: bool = False,
        stale: float | timedelta = 0,
    ) -> bool:
        """Set the value of a key, for ``ttl`` seconds or for ever.

        :param if_absent: whether to leave a key alone that has a value, in one atomic step
        :param stale: for how many seconds after its time ``get_entry`` gives it to who asks for old
            values; nothing else does, but its key may still be listed
        :returns: whether the value was set; without ``if_absent`` it always is
        :raises TypeError: if the value cannot be stored faithfully; the message names the path
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        ...

    async def set_many(
        self, values: Mapping[str, Any], ttl: float | timedelta | None = None
    ) -> None:
        """Set the values of many keys, each for ``ttl`` seconds or for ever.

        :raises TypeError: if a value cannot be stored faithfully; nothing is set then
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        ...

    async def touch(self, key: str, ttl: float | timedelta | None = None) -> bool:
        """Let the value of a key end ``ttl`` seconds from now, or never; ``False`` if it has none.

        :raises ValueError: if ``ttl`` is out of range
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value."""
        ...

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many keys, whether or not they have a value."""
        ...

    async def has(self, key: str) -> bool:
        """Tell whether a key has a value, ``None`` included."""
        ...

    async def clear(self) -> None:
        """Remove every key below the store's prefix; touches no lock and no circuit."""
        ...

    async def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, without the store's prefix, in no particular order.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        ...

    def iterate_keys(self, pattern: str | None = None) -> AsyncIterator[str]:
        """Give the keys that have a value one by one, read page by page: ``async for``.

        A key that has a value all the time is given once; one that is set or removed meanwhile
        may or may not be. The iteration may be left at any time.

        :param pattern: as in ``keys``
        """
        ...
