"""Waiting for a lock, and holding it for the length of a block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
from attrs import define

from gogoscope.clock import monotonic
from gogoscope.durations import seconds
from gogoscope.exceptions import GogoscopeError, LeaseLostError, LockError, LockTimeoutError
from gogoscope.lock_polling import Wanted
from gogoscope.lock_queue import queue_of
from gogoscope.persistence.lock_handle import LockHandle, Spawn
from gogoscope.persistence.validation import check_key, check_lease

if TYPE_CHECKING:
    from gogoscope.persistence.protocols import LockProvider, LockRecord

RENEWALS_PER_LEASE = 3


async def acquire(
    provider: LockProvider,
    key: str,
    ttl: float | timedelta,
    wait: float | timedelta | None,
    metadata: Mapping[str, str],
    spawn: Spawn,
) -> LockHandle | LockRecord | None:
    """Take a lock, waiting for it if need be; give its handle, or else who has it.

    :param wait: seconds to wait; 0 asks once and never queues, ``None`` waits for ever. For the
        answer to one request the wait may last a second; with 0 as long as the store allows it.
    :param spawn: runs in the background what is left to do when the wait is over
    """
    wanted = Wanted(check_lease(ttl), metadata, spawn)
    patience = math.inf if wait is None else seconds("wait", wait, zero=True, infinite=True)
    return await queue_of(provider, check_key(key)).acquire(wanted, patience)


class Keeper:
    """Renews a lock at a third of its lease until it is told to stop, or the lock is lost.

    It is shielded: what cancels the block of the lock must not end the lease under tasks that
    are still ending.
    """

    def __init__(self, handle: LockHandle) -> None:
        self._handle = handle
        self._stopped = anyio.CancelScope(shield=True)
        self._failure: GogoscopeError | None = None
        self._unanswered = False

    async def run(self) -> LeaseLostError | None:
        """Renew, and give the error when the lock is lost; ``None`` when told to stop."""
        handle = self._handle
        with self._stopped:
            pause = handle.lease / RENEWALS_PER_LEASE
            while (reason := handle.lost) is None:
                handle.made_shorter = shorter = anyio.Event()
                with anyio.move_on_after(min(pause, handle.deadline - monotonic())):
                    await shorter.wait()
                if shorter.is_set():
                    pause = (handle.deadline - monotonic()) / RENEWALS_PER_LEASE
                else:
                    pause = await self._renew()
            if self._failure is not None:
                reason = f"{reason}; the store failed with {self._failure!r}"
            elif self._unanswered:
                reason = f"{reason}; the store did not answer"
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
        left = handle.deadline - monotonic()
        if left <= 0:
            return 0.0  # The event loop was blocked; the store is not to blame.
        with anyio.move_on_after(left) as limit:
            try:
                await handle.extend()
            except GogoscopeError as error:
                self._failure = error
                return handle.lease / (RENEWALS_PER_LEASE * 4)
            self._failure = None
        self._unanswered = limit.cancelled_caught
        return handle.lease / RENEWALS_PER_LEASE


@define(eq=False)
class Mark:
    """Says that a task holds a lock, for as long as its block is open.

    Tasks inherit it, and the id of an ended task may be given to a new one.
    """

    provider: int
    key: str
    task: int
    open: bool = True


held: ContextVar[tuple[Mark, ...]] = ContextVar("held", default=())


def refuse_reentry(provider: LockProvider, key: str) -> Mark:
    """Raise if the current task holds the lock already; give what marks that it does.

    :raises LockError: waiting for it would never end
    """
    task = anyio.get_current_task().id
    for mark in held.get():
        if mark.open and (mark.provider, mark.key, mark.task) == (id(provider), key, task):
            raise LockError(
                f"this task holds the lock {key!r} already; waiting for it would never end"
            )
    return Mark(id(provider), key, task)


def timeout_error(
    key: str, wait: float | timedelta | None, record: LockRecord | None
) -> LockTimeoutError:
    """Give the error of a lock that was not free in time, which tells who holds it."""
    found = f"lock {key!r} was not free" + (f" within {wait} s" if wait else "")
    if record is None or record.owner is None:
        return LockTimeoutError(found)
    place = ", ".join(f"{name} {value}" for name, value in record.metadata.items())
    return LockTimeoutError(f"{found}: held by {record.owner!r} ({place})")
