"""What a store can do: one small Protocol for each capability, and the records they speak of.

The method names of the capabilities are disjoint, so that one object may have all of them. Every
method is atomic: whoever else works on the same key at the same time, in this process or another,
sees all of its effect or none. A cancelled method leaves its effect done or not done, never half.

Times inside records are integer milliseconds since the Unix epoch; durations that a caller passes
are seconds. A store fails with a :class:`~gogoscope.exceptions.PersistenceError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from attrs import field, frozen

if TYPE_CHECKING:
    from gogoscope.persistence.lock_handle import LockHandle

CircuitState = Literal["closed", "open", "half-open", "forced-open"]

DEFAULT_OPEN_MS = 30_000
"""How long ``record_failure``, which is not told, opens a circuit."""


@frozen
class LockClaim:
    """What somebody who wants a lock writes into it.

    ``nonce`` is fresh for each acquisition and is what every condition compares; ``owner`` is for
    people and for ``extend(key, ttl, owner)``; ``lease_ms`` is how long the lock lasts unless it
    is renewed; ``metadata`` tells people who it is (host, pid, scope).
    """

    nonce: str
    owner: str
    lease_ms: int
    metadata: Mapping[str, str] = field(factory=dict)


@frozen
class LockRecord:
    """A lock as it is stored; one that was released keeps its ``version``.

    ``version`` starts at the clock in microseconds and only grows. ``fencing_token`` is the
    version as the acquiring write left it: later acquisitions have higher ones, renewals the same.
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


@frozen
class LockReply:
    """The answer to a claim or a renewal: whether it was granted, and the lock as it now is."""

    granted: bool
    record: LockRecord | None


@frozen
class LockHolder:
    """Who holds a lock, for people.

    ``since`` is in seconds since the Unix epoch. ``lease_left`` is in seconds and only a hint,
    since it compares the clocks of two machines.
    """

    owner: str
    host: str | None
    pid: int | None
    scope: str | None
    since: float
    lease_left: float
    fencing_token: int


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
        """Let the lease of an owner end ``ttl`` seconds from now; ``False`` if it has none."""
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
        the store's allowance for skew; with ``seen``, only when the lock is still held by that
        nonce at that version, which the caller watched for a whole lease on its own clock. A
        claim whose nonce already holds the lock is granted: an earlier try landed.
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
class CircuitBreakerState:
    """A circuit as it is stored.

    ``reporters`` are the processes that reported failures since the count began, with the time
    of their last one; ``probes`` the half-open probes under way, with the end of their leases.
    """

    state: CircuitState = "closed"
    failure_count: int = 0
    last_failure_ms: int | None = None
    last_success_ms: int | None = None
    open_until_ms: int | None = None
    open_count: int = 0
    success_count: int = 0
    window_start_ms: int = 0
    reporters: Mapping[str, int] = field(factory=dict)
    probes: Mapping[str, int] = field(factory=dict)
    version: int = 0


@frozen
class FailureReport:
    """Failures of one process, to be counted in one write, and what they may lead to.

    ``reporter`` is the process, ``count`` how many failures, ``threshold`` how many trip,
    ``quorum`` how many processes must have reported, ``window_ms`` the time within which they
    count (``None``: failures in a row), ``open_ms`` how long the circuit opens if it trips.
    """

    reporter: str
    count: int
    threshold: int
    open_ms: int
    window_ms: int | None = None
    quorum: int = 1


@frozen
class ProbeReply:
    """Whether a half-open probe may run, and the circuit as it now is."""

    granted: bool
    state: CircuitBreakerState


@runtime_checkable
class CircuitBreakerStateProvider(Protocol):
    """Keeps the state of circuit breakers."""

    async def get_state(self, key: str) -> CircuitBreakerState | None:
        """Give a circuit's state, or ``None`` if nothing was ever recorded."""
        ...

    async def set_state(self, key: str, state: CircuitBreakerState) -> None:
        """Replace a circuit's state, whatever it was; ``version`` is ignored and grows."""
        ...

    async def record_failure(self, key: str, max_failures: int) -> int:
        """Count one failure, open the circuit at the maximum, and give the count."""
        ...

    async def record_success(self, key: str) -> None:
        """Note a success: clear the failures of a closed circuit, close one whose time is over.

        A circuit that is open and whose time is not over stays open: the success is a late one.
        """
        ...

    async def count_failures(self, key: str, report: FailureReport) -> CircuitBreakerState:
        """Count failures and trip the circuit when they reach threshold and quorum.

        Failures that arrive when the circuit is not closed are late and are dropped.
        """
        ...

    async def claim_probe(self, key: str, nonce: str, lease_ms: int, limit: int) -> ProbeReply:
        """Ask for one of at most ``limit`` probes of a circuit whose open time is over.

        The probe has ``lease_ms`` to settle; then its place may be taken by another. A claim
        whose nonce already has a place is granted: an earlier try landed.
        """
        ...

    async def settle_probe(
        self, key: str, nonce: str, *, succeeded: bool, success_threshold: int, open_ms: int
    ) -> CircuitBreakerState | None:
        """Tell how a probe ended; ``None`` if its lease had run out, so that it has no verdict.

        :param succeeded: ``False`` opens the circuit for ``open_ms``; ``True`` counts, and closes
            it at ``success_threshold``
        """
        ...

    async def return_probe(self, key: str, nonce: str) -> None:
        """Give back the place of a probe that was cancelled; the next caller may have it."""
        ...

    async def reset_failures(self, key: str, version: int) -> CircuitBreakerState | None:
        """Set the count of a closed circuit to 0 if its version is still the one given.

        Gives the new state, or ``None`` if it had changed meanwhile.
        """
        ...


@runtime_checkable
class CacheProvider(Protocol):
    """Keeps JSON-shaped values under keys, for ever or for a time."""

    async def get(self, key: str, default: Any = None) -> Any:
        """Give the value of a key, or ``default`` if it has none."""
        ...

    async def set(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        """Set the value of a key, for ``ttl`` seconds or for ever.

        :raises TypeError: if the value cannot be stored faithfully; the message names the path
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value."""
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
