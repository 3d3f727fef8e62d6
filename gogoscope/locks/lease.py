"""Waiting for a lock, and holding it for the length of a block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from gogoscope._core.clock import monotonic
from gogoscope.events import log_warning
from gogoscope.exceptions import GogoscopeError, LeaseLostError
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle

if TYPE_CHECKING:
    pass

RENEWALS_PER_LEASE = 3


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


async def release(handle: LockHandle) -> None:
    """Free a lock at its block's end, shielded and bounded; else its lease ends it."""
    try:
        await _release(handle)
    except anyio.get_cancelled_exc_class():  # asyncio's own cancellation, which knows no shield
        await _release(handle)
        raise


async def _release(handle: LockHandle) -> None:
    with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
        try:
            await handle.release()
        except GogoscopeError as error:
            log_warning("%r could not be released; its lease will end", handle, error=error)
