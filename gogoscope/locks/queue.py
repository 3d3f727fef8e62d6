"""Those of one event loop who wait for one lock: first in, first out, behind one poller.

The first in the queue polls for all; when it has left, the next one does. So a queue needs no task
of its own, and is gone with the last who waits and the last who holds. A release hands the lock
over to the first in the queue in one write.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import anyio

from gogoscope._core.clock import monotonic
from gogoscope._core.jitter import jittered
from gogoscope._core.per_store import PerStore
from gogoscope.exceptions import GogoscopeError
from gogoscope.locks.polling import FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, Poller, Wanted
from gogoscope.persistence.lock_handle import (
    CLEAN_UP_SECONDS,
    LockHandle,
    claim_handle,
    new_claim,
    take_back,
)

if TYPE_CHECKING:
    from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
    from gogoscope.persistence.protocols.locks import LockProvider

MOST_IN_A_ROW = 16
ASKS_PER_LEASE = 3
REQUEST_SECONDS = 1.0
"""How long an answer is waited for, be the patience ever so short."""
FREEING_SECONDS = CLEAN_UP_SECONDS / 2
"""What offers of a handover must leave of the time for a release, so that the lock can be freed."""


class Waiter:
    """One who waits.

    ``asking`` tells that its claim is under way, ``promised`` that a handover to it is, ``gone``
    that it waits no more. Who hands over sets ``handle``.
    """

    __slots__ = ("arrived", "asking", "gone", "handle", "promised", "wanted", "woken")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.arrived = monotonic()
        self.woken = anyio.Event()
        self.asking = False
        self.promised = False
        self.gone = False
        self.handle: LockHandle | None = None


class LockQueue:
    """Those of one event loop who wait for one lock, and who of them has it.

    :param queues: where it is kept while it is in use
    """

    def __init__(self, provider: LockProvider, key: str, queues: dict[str, LockQueue]) -> None:
        self._provider = provider
        self._key = key
        self._queues = queues
        self._poller = Poller(provider, key)
        self._waiters: deque[Waiter] = deque()
        self._holder: LockHandle | None = None
        self._users = 0
        self._in_a_row = 0
        self._rest_until = -math.inf
        self._left_at = -math.inf

    async def acquire(self, wanted: Wanted, patience: float) -> LockHandle | LockRecord | None:
        """Take the lock; give its handle, or else who has it.

        :param patience: seconds to wait for it; with 0 it is asked for once, past the queue, and
            the store says how long that may take
        """
        self._users += 1
        try:
            if patience > 0:
                return await self._wait(wanted, patience)
            answer = await claim_handle(
                self._provider, self._key, wanted.lease, metadata=wanted.metadata
            )
            return self._held_by(answer) if isinstance(answer, LockHandle) else answer.record
        finally:
            self._users -= 1
            self._forget_if_idle()

    async def _wait(self, wanted: Wanted, patience: float) -> LockHandle | LockRecord | None:
        waiter = Waiter(wanted)
        self._waiters.append(waiter)
        try:
            try:
                return await self._turn_of(waiter, waiter.arrived + patience)
            finally:
                waiter.gone = True
                await self._leave(waiter)
        except BaseException:
            if waiter.handle is not None:
                await _let_go(waiter.handle)
            raise

    async def _turn_of(self, waiter: Waiter, give_up_at: float) -> LockHandle | LockRecord | None:
        may_ask = self._held_here() is None
        while True:
            waiter.woken = anyio.Event()
            first = self._waiters[0] is waiter
            if first and may_ask and not waiter.promised and self._rest_until <= monotonic():
                handle = await self._ask(waiter, give_up_at)
                if handle is not None:
                    waiter.handle = self._held_by(handle)
                    return waiter.handle
            left = give_up_at - monotonic()
            if left <= 0:
                return self._record()
            pause = self._pause() if first else math.inf
            woken = await _set_within(waiter.woken, min(left, pause))
            if waiter.handle is not None:
                return waiter.handle
            if not woken and not first:
                return self._record()
            may_ask = not woken or self._held_here() is None

    async def _ask(self, waiter: Waiter, give_up_at: float) -> LockHandle | None:
        waiter.asking = True
        waiting_since = max(waiter.arrived, self._left_at)
        answer_by = max(give_up_at, monotonic() + REQUEST_SECONDS)
        try:
            return await self._poller.ask(waiter.wanted, waiting_since, answer_by)
        finally:
            waiter.asking = False

    def _pause(self) -> float:
        """Return the seconds until the first in the queue asks, unless it is woken."""
        now = monotonic()
        if (holder := self._held_here()) is not None:
            # Its release wakes; this is for a lock that was freed by force.
            pause = max(LONGEST_POLL_SECONDS, holder.lease / ASKS_PER_LEASE)
            return min(pause, holder.deadline - now)
        return max(self._rest_until - now, 0.0) or self._poller.pause()

    async def _leave(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            was_first = self._waiters[0] is waiter
            self._waiters.remove(waiter)
            if was_first:
                self._wake_first()
        if not self._waiters:
            await self._poller.give_back_turn()

    async def _pass_on(self, handle: LockHandle, in_time: bool) -> bool:
        """Free the lock, or hand it over; tell whether ``handle`` held it."""
        if in_time and handle is self._holder:
            return await self._hand_over(handle)
        return await handle.free(in_time)

    def _left_by(self, handle: LockHandle) -> None:
        if self._holder is handle:
            self._holder = None
            self._left_at = monotonic()
        self._wake_first()
        self._forget_if_idle()

    async def _hand_over(self, handle: LockHandle) -> bool:
        giver = handle
        deadline = monotonic() + CLEAN_UP_SECONDS
        while self._may_offer() and monotonic() < deadline - FREEING_SECONDS:
            waiter = self._waiters[0]
            claim = new_claim(waiter.wanted.lease, metadata=waiter.wanted.metadata)
            sent = monotonic()
            waiter.promised = True
            try:
                reply = await self._offer(giver, claim, deadline)
            finally:
                waiter.promised = False
            if reply is None:
                try:
                    freed = await giver.free(True)
                finally:
                    taken_back = await self._take_back(claim.nonce, deadline)
                return freed or taken_back
            if not reply.granted or reply.record is None:
                if reply.record is None or reply.record.nonce != giver.nonce:
                    return giver is not handle
                self._rest_until = monotonic() + jittered(FIRST_POLL_SECONDS)
                break  # Another process has reserved the next turn.
            giver = LockHandle(self._provider, self._key, reply.record, sent, waiter.wanted.lease)
            self._in_a_row += 1
            if not waiter.gone and giver.lost is None:
                self._deliver(waiter, giver)
                return True
        if giver is handle:
            return await giver.free(True)
        await self._take_back(giver.nonce, deadline)  # Nobody has its handle who could free it.
        return True

    def _may_offer(self) -> bool:
        return bool(
            self._in_a_row < MOST_IN_A_ROW and self._waiters and not self._waiters[0].asking
        )

    async def _offer(
        self, giver: LockHandle, claim: LockClaim, deadline: float
    ) -> LockReply | None:
        """Ask the store to hand over; ``None`` if nobody knows whether it did."""
        try:
            with anyio.move_on_after(deadline - FREEING_SECONDS - monotonic(), shield=True):
                return await self._provider.hand_over_lock(self._key, giver.nonce, claim)
        except GogoscopeError:
            return None
        except BaseException:  # such as a cancellation that knows no shield
            await self._take_back(giver.nonce, deadline)
            await self._take_back(claim.nonce, deadline)
            raise
        return None

    async def _take_back(self, nonce: str, deadline: float) -> bool:
        return await take_back(self._provider, self._key, nonce, deadline - monotonic())

    def _deliver(self, waiter: Waiter, handle: LockHandle) -> None:
        in_a_row = self._in_a_row
        waiter.handle = self._held_by(handle)
        self._in_a_row = in_a_row
        self._waiters.remove(waiter)
        waiter.woken.set()

    def _held_by(self, handle: LockHandle) -> LockHandle:
        handle.pass_on = self._pass_on
        handle.on_leave = self._left_by
        self._holder = handle
        self._in_a_row = 0
        self._poller.reset()
        return handle

    def _held_here(self) -> LockHandle | None:
        holder = self._holder
        return holder if holder is not None and holder.lost is None else None

    def _record(self) -> LockRecord | None:
        holder = self._held_here()
        return self._poller.record if holder is None else holder.record

    def _wake_first(self) -> None:
        if self._waiters:
            self._waiters[0].woken.set()

    def _forget_if_idle(self) -> None:
        idle = not self._users and self._held_here() is None
        # One that was forgotten before is told of late releases, when there may be another.
        if idle and self._queues.get(self._key) is self:
            del self._queues[self._key]


def _no_queues() -> dict[str, LockQueue]:
    return {}


_queues = PerStore("lock_queues", _no_queues)


def queue_of(provider: LockProvider, key: str) -> LockQueue:
    """Return the queue of a lock in the current event loop; it lasts while somebody is in it."""
    queues = _queues.of(provider)
    queue = queues.get(key)
    if queue is None:
        queue = queues[key] = LockQueue(provider, key, queues)
    return queue


async def _set_within(event: anyio.Event, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        await event.wait()
    return event.is_set()


async def _let_go(handle: LockHandle) -> None:
    """Release what was handed to one who was cancelled meanwhile; bounded and shielded."""
    with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
        try:
            await handle.release()
        except GogoscopeError:
            return  # Its lease ends it.
