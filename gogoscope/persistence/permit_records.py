"""What a store keeps of the permits of a semaphore or a read/write lock, and what it answers.

Both are one thing: a number of permits, each with a lease of its own. A caller of a semaphore, or a
reader, takes one of them; a writer takes all. The lease of a permit is a
:class:`~gogoscope.persistence.lock_records.LockRecord`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from gogoscope.persistence.lock_records import LockClaim, LockHolder, LockRecord
from gogoscope.persistence.stored import check_integer

PermitKind = Literal["semaphore", "read_write_lock"]
"""What permits belong to; a semaphore and a read/write lock of one key are two things."""
Takes = Literal["one", "all"]


@frozen
class Permit:
    """A permit that somebody holds, or waits for.

    ``limit`` is how many permits may be held at a time, this one included, as its caller said;
    ``None`` for any number. ``takes`` says whether others may hold permits beside it.
    """

    lease: LockRecord
    limit: int | None = None
    takes: Takes = "one"


@frozen
class PermitsRecord:
    """The permits of one semaphore or read/write lock, as they are stored.

    ``version`` is the fencing token of the newest permit. ``holders`` are the permits that are
    held, by their nonces. ``waiting`` are those that somebody reserved, in the order of arrival, by
    the names of those turns. ``released_by`` is the nonce that released a permit last, so that a
    late claim of it is refused.
    """

    version: int
    holders: Mapping[str, Permit] = field(factory=dict)
    waiting: Mapping[str, Permit] = field(factory=dict)
    released_by: str | None = None


@frozen
class PermitClaim:
    """What is asked for: a lease, and beside how many others.

    ``lease.turn`` is the name under which the caller waits, and ``turn_ms`` is how long its place
    among those who wait lasts unless it is renewed; 0 reserves none.
    """

    lease: LockClaim
    limit: int | None = None
    takes: Takes = "one"
    turn_ms: int = 0

    def __attrs_post_init__(self) -> None:
        if self.limit is not None:
            check_integer("limit", self.limit)
            if not self.limit:
                raise ValueError("limit must be 1 or more, got 0")
        check_integer("turn_ms", self.turn_ms)


@frozen
class PermitReply:
    """The answer to a claim: whether it was granted, and the permits as they are now.

    ``freed`` says whether a permit that was to be handed over was held until then. ``dead_in_ms``
    comes with a refusal: in how many milliseconds the first lease of the others will be over by
    the store's clock with its allowance; 0 if one is over, or if there is none.
    """

    granted: bool
    record: PermitsRecord | None
    freed: bool = False
    dead_in_ms: int = 0


@frozen
class Semaphore:
    """A semaphore, for people: who holds its permits, and who has reserved one, in this order."""

    holders: tuple[LockHolder, ...]
    waiting: tuple[LockHolder, ...]


@frozen
class ReadWriteLock:
    """A read/write lock, for people.

    ``waiting`` are the readers and writers that have reserved their turn, in this order.
    """

    readers: tuple[LockHolder, ...]
    writer: LockHolder | None
    waiting: tuple[LockHolder, ...]
