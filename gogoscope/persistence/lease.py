"""Keeping a lock for as long as some code needs it: the block of a lock, or a load of a value.

A :class:`Renewal` runs beside the code, in a task of its own, and what cancels the code does not
disturb it. When the code has ended, it is stopped, and
:func:`~gogoscope.persistence.lock_handle.release` frees the lock.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio

from gogoscope._core.clock import monotonic
from gogoscope.exceptions import GogoscopeError, LeaseLostError
from gogoscope.persistence.lock_handle import LockHandle

RENEWALS_PER_LEASE = 3
RETRIES_PER_RENEWAL = 4
"""How many times as often a renewal is tried again after the store failed."""
LOOK_AT_CLOCK_SECONDS = 1.0
"""How often a renewal looks whether a clock was set, so that the lease is over by it."""


class Renewal:
    """Renews a lock at a third of its lease until it is told to stop, or the lock is lost.

    It renews at once when the lease is over by the store's clock, since that was set.

    It is shielded: what cancels the code that needs the lock must not end the lease before that
    code has ended. So whoever runs it must stop it.
    """

    # _stopped: the shield; cancelling it stops the renewals.
    # _failure: what the store failed with last, if it has not answered since.
    # _unanswered: whether the last try ended with the lease, without an answer.
    # _resting_until: nothing is renewed before that time.
    # _is_done: tells, once the lease is over, whether it is needed no more.

    def __init__(self, handle: LockHandle) -> None:
        self._handle = handle
        self._stopped = anyio.CancelScope(shield=True)
        self._failure: GogoscopeError | None = None
        self._unanswered = False
        self._resting_until = 0.0
        self._is_done: Callable[[], Awaitable[bool]] | None = None

    async def run(self) -> LeaseLostError | None:
        """Renew until told to stop; return the error if the lock is lost before.

        Its cause is the error of the store, if the lease ended since the store failed.
        """
        handle = self._handle
        with self._stopped:
            due = handle._deadline - handle._lease * (1 - 1 / RENEWALS_PER_LEASE)
            while (reason := handle.lost) is None:
                pause = min(max(due, self._resting_until), handle._deadline) - monotonic()
                part = min(pause, LOOK_AT_CLOCK_SECONDS)
                if await handle._sleep_unless_shortened(part):
                    now = monotonic()
                    due = now + (handle._deadline - now) / RENEWALS_PER_LEASE
                elif self._resting_until <= monotonic() and (part == pause or handle._in_doubt()):
                    # One that took long is followed by the next one sooner: leases, too, count
                    # from when they were asked for.
                    due = monotonic()
                    due += await self._renew()
            if self._is_done is not None and await self._is_done():
                return None
            if self._failure is not None:
                reason = f"{reason}; the store failed with {self._failure!r}"
            elif self._unanswered:
                reason = f"{reason}; the store did not answer"
            lost = handle._lease_lost()
            lost._explain(reason, self._failure)
            return lost
        return None

    def rest(self, seconds: float) -> None:
        """Renew nothing for some time: another write of the lease's record is on its way."""
        self._resting_until = max(self._resting_until, monotonic() + seconds)

    def end(self, is_done: Callable[[], Awaitable[bool]]) -> None:
        """Renew nothing any more; at the end of the lease ask whether it is needed no more."""
        self._resting_until = math.inf
        self._is_done = is_done

    def stop(self) -> None:
        """End the renewals, also if they have not begun yet."""
        self._stopped.cancel()

    async def _renew(self) -> float:
        """Try to renew once; return the seconds until the next try."""
        handle = self._handle
        left = handle._deadline - monotonic()
        if left <= 0:
            return 0.0  # The event loop was blocked; the store is not to blame.
        with anyio.move_on_after(left) as limit:
            try:
                await handle.extend()
            except GogoscopeError as error:
                self._failure = error
                return handle._lease / (RENEWALS_PER_LEASE * RETRIES_PER_RENEWAL)
            self._failure = None
        self._unanswered = limit.cancelled_caught
        return handle._lease / RENEWALS_PER_LEASE
