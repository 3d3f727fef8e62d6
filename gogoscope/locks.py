"""Waiting for a lock, and holding it for the length of a block."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio

from gogoscope.clock import monotonic
from gogoscope.durations import seconds
from gogoscope.exceptions import GogoscopeError, LeaseLostError, LockError, LockTimeoutError
from gogoscope.persistence.lock_handle import LockHandle, claim_handle

if TYPE_CHECKING:
    from gogoscope.persistence.protocols import LockProvider, LockRecord

FIRST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.5
RENEWALS_PER_LEASE = 3


async def acquire(
    provider: LockProvider,
    key: str,
    ttl: float | timedelta,
    wait: float | timedelta | None,
    metadata: Mapping[str, str],
) -> LockHandle | LockRecord | None:
    """Take a lock, waiting for it if need be; give its handle, or else who has it.

    :param wait: seconds to wait; ``None`` waits for ever
    """
    patience = None if wait is None else seconds("wait", wait, zero=True, infinite=True)
    give_up_at = None if patience is None else monotonic() + patience
    poll = FIRST_POLL_SECONDS
    watched = _Watched()
    while True:
        seen = watched.dead()
        answer = await claim_handle(provider, key, ttl, metadata=metadata, seen=seen)
        if isinstance(answer, LockHandle):
            return answer
        record = answer.record
        watched.look(record)
        pause = _jittered(poll)
        poll = min(LONGEST_POLL_SECONDS, poll * 2)
        if give_up_at is not None:
            left = give_up_at - monotonic()
            if left <= 0:
                return record
            pause = min(pause, left)
        await anyio.sleep(pause)


class _Watched:
    """Watches a holder without trusting its clock: unchanged for a whole lease, it is dead."""

    def __init__(self) -> None:
        self._record: LockRecord | None = None
        self._since = 0.0

    def look(self, record: LockRecord | None) -> None:
        if record is None or record.nonce is None:
            self._record = None
        elif self._record is None or _identity(record) != _identity(self._record):
            self._record = record
            self._since = monotonic()

    def dead(self) -> LockRecord | None:
        record = self._record
        if record is not None and monotonic() - self._since > record.lease_ms / 1000:
            return record
        return None


class Keeper:
    """Renews a lock at a third of its lease until it is told to stop, or the lock is lost.

    It is shielded: what cancels the block of the lock must not end the lease under tasks that
    are still ending.
    """

    def __init__(self, handle: LockHandle) -> None:
        self._handle = handle
        self._stopped = anyio.CancelScope(shield=True)
        self._failure: GogoscopeError | None = None

    async def run(self) -> LeaseLostError | None:
        """Renew, and give the error when the lock is lost; ``None`` when told to stop."""
        handle = self._handle
        with self._stopped:
            pause = handle.lease / RENEWALS_PER_LEASE
            while (reason := handle.lost) is None:
                await anyio.sleep(min(pause, max(0.0, handle.deadline - monotonic())))
                pause = await self._renew()
            if self._failure is not None:
                reason = f"{reason}; the store failed with {self._failure!r}"
            lost = LeaseLostError(handle.key, reason)
            lost.__cause__ = self._failure
            return lost
        return None

    def stop(self) -> None:
        """End the renewals."""
        self._stopped.cancel()

    async def _renew(self) -> float:
        """Try to renew once; give the seconds until the next try."""
        handle = self._handle
        with anyio.move_on_after(max(0.0, handle.deadline - monotonic())):
            try:
                await handle.extend()
            except GogoscopeError as error:
                self._failure = error
                return handle.lease / (RENEWALS_PER_LEASE * 4)
            self._failure = None
        return handle.lease / RENEWALS_PER_LEASE


held: ContextVar[tuple[tuple[int, str, int], ...]] = ContextVar("held", default=())


def refuse_reentry(provider: LockProvider, key: str) -> tuple[int, str, int]:
    """Raise if the current task holds the lock already; give what marks that it does.

    :raises LockError: waiting for it would never end
    """
    mark = (id(provider), key, anyio.get_current_task().id)
    if mark in held.get():
        raise LockError(f"this task holds the lock {key!r} already; waiting for it would never end")
    return mark


def timeout_error(
    key: str, wait: float | timedelta | None, record: LockRecord | None
) -> LockTimeoutError:
    """Give the error of a lock that was not free in time, which tells who holds it."""
    if record is None or record.owner is None:
        return LockTimeoutError(f"lock {key!r} was not free within {wait} s")
    place = ", ".join(f"{name} {value}" for name, value in record.metadata.items())
    return LockTimeoutError(
        f"lock {key!r} was not free within {wait} s: held by {record.owner!r} ({place})"
    )


def _identity(record: LockRecord) -> tuple[Any, int]:
    return record.nonce, record.version


def _jittered(pause: float) -> float:
    import random  # noqa: PLC0415 - only needed when a lock is taken; costs much of our import

    return pause * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
