"""Taking a lock for a scope, waiting for it if need be, and releasing it at the scope's end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from gogoscope._core.arguments import printable
from gogoscope._core.background import Home
from gogoscope._core.context import slots_lent
from gogoscope._core.durations import seconds
from gogoscope._core.errors import is_a
from gogoscope._core.groups import run_all
from gogoscope.events import (
    LockAcquired,
    LockReleased,
    LockTimedOut,
    LockWaiting,
    LockWaitStopped,
    new_id,
    told_of_holder,
)
from gogoscope.exceptions import LockTimeoutError
from gogoscope.locks.polling import Wanted
from gogoscope.locks.queue import LockQueue, queue_of
from gogoscope.locks.reentry import refuse_reentry
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle, release
from gogoscope.persistence.lock_records import LockRecord
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.validation import check_key, check_lease

TRACE = "traceparent"
"""The metadata of a lock that tells of the holder's trace, if that is observed."""


FEW = 64
"""How many locks a scope holds before it looks for those whose lease is over."""


class Locks:
    """The locks that one scope holds without a block; attached to it, and settled at its end."""

    # _held: the handles that are not released yet.
    # _look_at: how many of them there are when those whose lease is over are looked for.

    def __init__(self, home: Home) -> None:
        self._home = home
        self._held: set[LockHandle] = set()
        self._look_at = FEW

    @classmethod
    def of(cls, home: Home) -> Locks:
        """Return the locks of a scope."""
        return home.attach(cls, cls)

    def begin_end(self) -> float:
        """Return the seconds to wait for a claim that is being taken back."""
        return CLEAN_UP_SECONDS

    async def acquire(
        self, key: str, ttl: float | timedelta, wait: float | timedelta | None
    ) -> LockHandle | None:
        """Take a lock that is released with the scope at the latest.

        :param ttl: the lease in seconds
        :param wait: seconds to wait for it; ``None`` waits for ever
        :returns: its handle, or ``None`` if it was not free in time
        :raises LockError: if it would wait for a block of the same task to end
        """
        check_key(key)
        lease, patience = check_lease(ttl), check_patience(wait)
        if patience:
            refuse_reentry(locks_of(self._home), key)
        self._forget_what_is_over()
        answer = await acquire(self._home, key, lease, patience, {}, self._held)
        return answer if isinstance(answer, LockHandle) else None

    def _forget_what_is_over(self) -> None:
        """Forget the locks whose lease is over; many are taken for a time, and never released.

        All are looked at when there are twice as many as were left the last time.
        """
        if len(self._held) >= self._look_at:
            for handle in [handle for handle in self._held if handle.lost is not None]:
                handle._releaser.released(handle, False)
            self._look_at = 2 * max(len(self._held), FEW)

    async def settle(self) -> None:
        """Release the locks, all at once, so that they share one bound."""
        for handle in [handle for handle in self._held if handle.lost is not None]:
            handle._abandon()
        await run_all([partial(release, handle) for handle in self._held])


async def acquire(
    home: Home,
    key: str,
    lease: float,
    patience: float,
    metadata: Mapping[str, str],
    held: set[LockHandle],
) -> LockHandle | LockRecord | None:
    """Take a lock for a scope; return its handle, or else who has it.

    :param lease: in seconds
    :param patience: seconds to wait; 0 asks once and never queues, ``math.inf`` waits for ever. For
        the answer to one request the wait may last a second; with 0 as long as the store allows it.
    :param metadata: what to tell people about the holder, besides host, pid and scope
    :param held: where the handle is kept until it is released
    """
    queue = queue_of(locks_of(home), key)
    releaser = ScopeReleaser(home, queue, held)
    waiting = Waiting(home, key) if home.observed else None
    wanted = Wanted(
        lease, {"scope": home.name, **told_of_holder(), **metadata}, home.spawn, releaser, waiting
    )
    answer: LockHandle | LockRecord | None = None
    try:
        if patience == 0:
            answer = await queue.acquire(wanted, patience)
        else:
            async with slots_lent():
                answer = await queue.acquire(wanted, patience)
        if isinstance(answer, LockHandle):
            home.check_open()  # it may have ended meanwhile, if another scope's task waited here
            held.add(answer)
        if waiting is not None:
            waiting.ended(answer if isinstance(answer, LockHandle) else None)
    except BaseException as raised:
        if waiting is not None:
            waiting.stopped(raised)
        if isinstance(answer, LockHandle):  # cancelled while it waited to get its slot back, say
            await release(answer)
        raise
    return answer


class Waiting:
    """One wait for a lock, as the events of its scope tell it; there is none if nobody listens.

    ``_number`` is that of its events, 0 while there is none: a lock that is free is not waited for.
    """

    __slots__ = ("_began", "_home", "_key", "_number")

    def __init__(self, home: Home, key: str) -> None:
        self._home = home
        self._key = key
        self._began = time.monotonic()
        self._number = 0

    def begins(self, holder: LockHandle | None, record: LockRecord | None) -> None:
        """Tell that somebody has the lock.

        :param holder: its handle, if it is held in this event loop
        :param record: the lock as it was last seen
        """
        home = self._home
        if self._number:
            return
        self._number = new_id()
        owner = trace = None
        if record is not None:
            owner, trace = record.owner, record.metadata.get(TRACE)
        held_by = 0 if holder is None else holder._number
        home.emit(LockWaiting(home.name, self._key, owner, held_by, trace, id=self._number))

    def ended(self, handle: LockHandle | None) -> None:
        """Tell that the lock was had, or was not free in time."""
        home, waited = self._home, time.monotonic() - self._began
        if handle is None:
            home.emit(LockTimedOut(home.name, self._key, waited, id=self._number or new_id()))
            return
        if self._number:
            handle._numbered = self._number
        token, number = handle.fencing_token, handle._number
        home.emit(LockAcquired(home.name, self._key, token, waited, id=number))

    def stopped(self, raised: BaseException) -> None:
        """Tell that the wait ended without an answer, if there was a wait."""
        home = self._home
        if self._number:
            waited = time.monotonic() - self._began
            error = raised if is_a(raised, Exception) else None
            home.emit(LockWaitStopped(home.name, self._key, waited, error, id=self._number))


class ScopeReleaser:
    """Releases a lock of a scope: in its queue, and with an event of the scope.

    :param held: the handles that the scope has been told of; one that is released before it could
        get there, since its task was cancelled, has no event
    """

    __slots__ = ("_held", "_home", "_queue")

    def __init__(self, home: Home, queue: LockQueue, held: set[LockHandle]) -> None:
        self._home = home
        self._queue = queue
        self._held = held

    def check_here(self) -> None:
        """Make sure that the event loop of the scope runs the caller.

        :raises RuntimeError: in another thread or event loop
        """
        self._home.check_here()

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        """Free the lock, or hand it over to the next in the queue."""
        return await self._queue.free(handle, in_time)

    def released(self, handle: LockHandle, freed: bool) -> None:
        """Let the next in the queue have the lock, and tell the scope."""
        self._queue.left_by(handle)
        if handle in self._held:
            self._held.discard(handle)
            if self._home.observed:
                event = LockReleased(self._home.name, handle.key, freed, id=handle._number)
                self._home.emit(event)


def locks_of(home: Home) -> LockProvider:
    """Return the locks of a scope's store.

    :raises CapabilityNotSupportedError: if it has none
    """
    provider: LockProvider = provider_of("locks", home.store())
    return provider


def check_patience(wait: float | timedelta | None) -> float:
    """Return the seconds of an option ``wait=``; ``None`` waits for ever."""
    return math.inf if wait is None else seconds("wait", wait, zero=True, infinite=True)


def timeout_error(key: str, patience: float, record: LockRecord | None) -> LockTimeoutError:
    """Return the error for a lock that was not free in time, which tells who holds it."""
    found = f"lock {key!r} was not free" + (f" within {patience:g} s" if patience else "")
    if record is None or record.owner is None:
        return LockTimeoutError(found)
    # Somebody else wrote the metadata.
    place = printable(", ".join(f"{name} {value}" for name, value in record.metadata.items()))
    return LockTimeoutError(f"{found}: held by {record.owner!r} ({place})")
