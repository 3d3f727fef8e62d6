"""The handle of a lock that is held.

A handle counts its lease on a clock of this process, from before the claim or the renewal was sent:
so its lease never ends later here than it does in the store. Others may judge it by a wall clock,
which can be set while the lock is held. So a handle also asks the store's clock: if the lease is
over by that, the lock may be another's by now, and the handle counts on it only once a renewal was
granted.

The handle is made with a :class:`Releaser`, which it asks to free the lock, and which it tells when
that is done. It knows nothing else of the queue and the scope that it belongs to.
"""

from __future__ import annotations

import math
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

import anyio

from gogoscope._core.cancellation import finish
from gogoscope._core.clock import monotonic
from gogoscope._core.interrupts import uninterrupted_methods
from gogoscope._core.one_at_a_time import OneAtATime
from gogoscope.events import log_warning, new_id
from gogoscope.exceptions import GogoscopeError, LeaseLostError
from gogoscope.persistence.asking import ask
from gogoscope.persistence.lock_records import LeaseStore, LockRecord
from gogoscope.persistence.urgency import urgently
from gogoscope.persistence.validation import check_lease

CLEAN_UP_SECONDS = 5.0
"""How long a release may take at the end of a block; after that the lease ends the lock."""


class Releaser(Protocol):
    """Frees the lock of a handle, or passes it on; each handle has one from the beginning."""

    def check_here(self) -> None:
        """Make sure that the handle may be used by the event loop that runs the caller.

        :raises RuntimeError: if it may not
        """
        ...

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        """Free the lock, or hand it over; return whether the handle held it until then.

        :param in_time: whether the lease still runs, as far as this process knows
        """
        ...

    def released(self, handle: LockHandle, freed: bool) -> None:
        """Note that the handle has no lock any more.

        :param freed: whether it held the lock until its release
        """
        ...


@uninterrupted_methods
class LockHandle:
    """A lock that is held, until it is released or its lease ends.

    As an async context manager it releases the lock at the end of the block. If that fails, it is
    logged, and the lease ends the lock; what the block raises comes out of it.

    ``fencing_token`` is higher than that of every earlier holder: pass it with each outside write,
    so that what is written to can refuse an older one.

    The handle of a scope is used in the event loop of the scope, but for ``ensure`` and ``lost``,
    which any thread may ask.
    """

    # _record: the lock as the store's last answer showed it; the next renewal needs its version.
    # _sent: when the claim was sent, which is the time that the record's acquired_at_ms stands for.
    # _lease: how long a renewal lasts, in seconds; only a granted extension changes it.
    # _deadline: when the lease ends on the clock of ``monotonic()``, at the latest.
    # _lost: why the lock is not held any more; once it is set, the handle never has the lock again.
    # _loss: the error that says so, once somebody needs it.
    # _guard: lets one request about the lease be in flight at a time.
    # _numbered: its number in events, once there is one.
    # _shortened: set when the deadline moves back while a renewal sleeps.
    __slots__ = (
        "_deadline",
        "_guard",
        "_lease",
        "_loss",
        "_lost",
        "_numbered",
        "_record",
        "_releaser",
        "_sent",
        "_shortened",
        "_store",
        "key",
    )

    def __init__(
        self,
        store: LeaseStore,
        key: str,
        record: LockRecord,
        sent: float,
        lease: float,
        releaser: Releaser,
    ) -> None:
        self.key = key
        self._store = store
        self._record = record
        self._sent = sent
        self._lease = lease
        self._releaser = releaser
        self._deadline = sent + lease
        self._lost: str | None = None
        self._loss: LeaseLostError | None = None
        self._guard = OneAtATime()
        self._shortened: anyio.Event | None = None

    def __repr__(self) -> str:
        state = "" if self.lost is None else f", not held: {self._lost}"
        return (
            f"<LockHandle key={self.key!r} owner={self.owner!r} "
            f"fencing_token={self.fencing_token}{state}>"
        )

    @property
    def owner(self) -> str:
        """The name that ``extend(key, ttl, owner)`` takes."""
        return self._record.owner or ""

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier holder of this lock."""
        return self._record.fencing_token

    @property
    def expires_at(self) -> float:
        """When the lease ends, in seconds since the Unix epoch, by this machine's clock."""
        return self._record.lease_until_ms / 1000

    @property
    def deadline(self) -> float:
        """When the lease ends, on the event loop's clock (``anyio.current_time()``)."""
        return anyio.current_time() + self._deadline - monotonic()

    @property
    def lost(self) -> str | None:
        """Why the lock is not held any more, or ``None`` as far as this process knows."""
        if self._lost is None and monotonic() >= self._deadline:
            self._lost = f"it was not renewed within its lease of {self._lease:g} s"
        return self._lost

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        It raises also while the lease is over by the store's clock alone, since that was set; the
        lock is held again for certain when the next renewal has been granted.

        :raises LeaseLostError: if the lock is not held any more, or nobody knows
        """
        if self.lost is not None:
            raise self._lease_lost()
        if self._in_doubt():
            raise LeaseLostError(self.key, _CLOCK_SET)

    def _lease_lost(self) -> LeaseLostError:
        """Return the loss of the lease: one error, however many run into it."""
        if self._loss is None:
            self._loss = LeaseLostError(self.key, self.lost or _RELEASED)
        return self._loss.with_traceback(None)  # the frames of those before would add up

    async def is_valid(self) -> bool:
        """Ask the store whether this handle still holds the lock.

        If its lease is over by the store's clock, it is renewed.

        :raises PersistenceError: if the store fails
        """
        self._releaser.check_here()
        if self.lost is not None:
            return False
        if self._in_doubt():
            return await self.extend()
        record = await ask(self._store.read_lock, self.key)
        if record is None or record.nonce != self._nonce:
            self._lost = _reason(record)
        return self.lost is None

    async def extend(self, ttl: float | timedelta | None = None) -> bool:
        """Let the lease end ``ttl`` seconds from now; ``False`` if the lock is lost.

        If that is earlier than before, the lock counts as lost by then, even if the store fails or
        the call is cancelled.

        :param ttl: the new lease in seconds, at most 3,600, or a ``timedelta`` of at most 12 hours;
            the present one if left out
        :raises PersistenceError: if the store fails
        """
        self._releaser.check_here()
        wanted = None if ttl is None else check_lease(ttl)
        async with self._guard:
            lease = self._lease if wanted is None else wanted
            while self.lost is None:
                sent = monotonic()
                # Whether or not an answer comes, the store may end the lease then.
                self._end_by(sent + lease)
                lease_ms = milliseconds(lease)
                held_ms = milliseconds(sent - self._sent)
                reply = await urgently(
                    ask(
                        self._store.renew_lock,
                        self.key,
                        self._nonce,
                        self._record.version,
                        lease_ms,
                        self._record.acquired_at_ms + held_ms + lease_ms,
                    ),
                    lease=lease,
                )
                record = reply.record
                if record is None or record.nonce != self._nonce:
                    self._lost = _reason(record)
                    break
                self._record = record
                if reply.granted:
                    self._lease = lease
                    self._deadline = sent + lease
                    return True
                # Its owner's name was used to extend it, so its version is another: once more.
        return False

    async def release(self) -> bool:
        """Free the lock; never raises for a lock that is lost, and never frees another's.

        :returns: ``True`` if this call freed the lock, ``False`` if it was lost (or released)
            before
        :raises PersistenceError: if the store fails; it may be called again then
        """
        self._releaser.check_here()
        async with self._guard:
            if self._lost == _RELEASED:
                return False
            in_time = self.lost is None and not self._in_doubt()
            freed = await self._releaser.free(self, in_time)
            self._lost = _RELEASED
            self._releaser.released(self, freed)
            return freed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.lost is None:
            await release(self)
        else:
            self._abandon()

    @property
    def _number(self) -> int:
        """Its number in events, from when it is first needed."""
        try:
            return self._numbered
        except AttributeError:
            self._numbered: int = new_id()
            return self._numbered

    @property
    def _nonce(self) -> str:
        """The name of this acquisition, which every condition in the store compares."""
        return self._record.nonce or ""

    def _in_doubt(self) -> bool:
        """Tell whether the lease is over by the store's clock, so that others may take the lock."""
        return self._deadline < math.inf and self._store.lease_left_ms(self._record) <= 0

    async def _free(self, in_time: bool) -> bool:
        """Free the lock in the store, for whoever comes first; for releasers only."""
        freeing = ask(self._store.release_lock, self.key, self._nonce, in_time=in_time)
        return await urgently(freeing)

    def _check_time_left(self, share: float) -> None:
        """Make sure that there is time for something that nobody can take back.

        :param share: the part of the lease that it needs
        :raises LeaseLostError: if less of the lease is left, since the store failed to renew it
        """
        self.ensure()
        left, needed = self._deadline - monotonic(), self._lease * share
        if left < needed:
            raise LeaseLostError(
                self.key,
                f"it could not be renewed, and only {max(left, 0.0):.3g} s of it are left, where "
                f"{needed:.3g} s are needed",
            )

    def _outlive(self) -> None:
        """Note that what the lease is for is done: it is not lost any more, whoever has it."""
        self._lost, self._deadline = None, math.inf

    def _abandon(self) -> None:
        """Leave a lock that is lost to whoever has it, without a request to the store."""
        if self._lost != _RELEASED:
            self._lost = _RELEASED
            self._releaser.released(self, False)

    async def _sleep_unless_shortened(self, seconds: float) -> bool:
        """Sleep, but return ``True`` at once when the lease is made shorter; for one renewal."""
        self._shortened = shortened = anyio.Event()
        with anyio.move_on_after(seconds):
            await shortened.wait()
        return shortened.is_set()

    def _end_by(self, deadline: float) -> None:
        if deadline < self._deadline:
            self._deadline = deadline
            if self._shortened is not None:
                self._shortened.set()


async def release(handle: LockHandle) -> None:
    """Free a lock at the end of a block, whatever cancels the block; else its lease ends it.

    It takes no longer than ``CLEAN_UP_SECONDS``, and logs if the store fails. In any case the
    handle is done with: nobody will ask it again, so what knows of it forgets it.
    """

    async def free() -> None:
        try:
            await handle.release()
        except GogoscopeError as error:
            log_warning("%r could not be released; its lease will end", handle, error=error)

    try:
        await finish(free, CLEAN_UP_SECONDS)
    finally:
        handle._abandon()


class _StoreReleaser:
    """Frees a lock in its store, for a handle that belongs to no queue and no scope."""

    def check_here(self) -> None:
        return

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        return await handle._free(in_time)

    def released(self, handle: LockHandle, freed: bool) -> None:
        return


IN_STORE: Releaser = _StoreReleaser()

_RELEASED = "it was released"
_CLOCK_SET = "a clock was set: by that its lease is over, and it has not been renewed since"


def milliseconds(duration: float) -> int:
    """Return a duration in seconds as whole milliseconds, rounded up."""
    return math.ceil(duration * 1000)


def _reason(record: LockRecord | None) -> str:
    if record is None or record.nonce is None:
        return "it was forcibly released"
    return f"it was taken over by {record.owner!r}"
