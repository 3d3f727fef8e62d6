"""The tasks of one event loop that wait for one lock: first in, first out.

Only the first in the queue asks the store; when it leaves, the next one does. So a queue needs no
task of its own, and a hundred waiters make no more requests than one. A release hands the lock over
to the first waiter in one write. After ``MOST_IN_A_ROW`` handovers the lock is released instead, so
that another process may come in between.

What always holds:

1. A waiter has a claim in flight (``asking``) or a handover to it (``promised``), never both: so
   it cannot be granted the lock twice.
2. A lock that arrives for a waiter which has left (``gone``) is passed on, or freed. When no answer
   to a request comes, whatever it may have taken is taken back.
3. While the lock is held here (by ``_holder``, whose lease still runs), nobody asks the store, but
   for a look at each third of the lease: somebody may have freed the lock by force.
4. A queue can be found as long as anybody waits in it or holds its lock. One that was forgotten is
   still told when a handle of it is released late.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial

import anyio

from gogoscope._core.clock import monotonic
from gogoscope._core.jitter import jittered
from gogoscope._core.per_store import PerStore
from gogoscope.exceptions import GogoscopeError
from gogoscope.locks.polling import FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, Poller, Wanted
from gogoscope.persistence.asking import ask
from gogoscope.persistence.lock_claims import claim_once, new_claim, take_back
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle, release
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.urgency import urgently
from gogoscope.persistence.watching import Stop, watch

MOST_IN_A_ROW = 16
LOOKS_PER_LEASE = 3
REQUEST_SECONDS = 1.0
"""How long an answer is waited for, however short the wait for the lock may be."""
FREEING_SECONDS = CLEAN_UP_SECONDS / 2
"""The part of the time for a release that handovers must leave, so that the lock can be freed."""


class Waiter:
    """One task that waits."""

    # woken: set when the waiter shall look again; it makes a new one before each look.
    # asking: whether a claim of it is in flight.
    # promised: whether a handover to it is in flight.
    # gone: whether it has stopped waiting.
    # handle: the lock, once it has it.
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
    """The queue of one lock.

    :param queues: where it is found while it is in use
    """

    # _holder: the last handle that a task here got; it may have lost the lock.
    # _users: how many calls of acquire() have not returned.
    # _in_a_row: how many handovers there were since the lock was last claimed.
    # _rest_until: until when nobody here claims, since another process has reserved the next turn.
    # _left_at: when the lock was last released here; waiting for others counts from then.
    # _stop_watching: ends that the store tells this queue; None while it does not.

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
        self._stop_watching: Stop | None = None

    async def acquire(self, wanted: Wanted, patience: float) -> LockHandle | LockRecord | None:
        """Take the lock; return its handle, or else who has it.

        :param patience: seconds to wait for it; with 0 it is asked for once, past the queue, and
            the store says how long that may take
        """
        self._users += 1
        try:
            if patience > 0:
                return await self._wait(wanted, patience)
            return await self._ask_past_the_queue(wanted)
        finally:
            self._users -= 1
            self._forget_if_idle()

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        """Free the lock of a handle, or hand it over; return whether the handle held it.

        :param in_time: whether its lease still runs, as far as this process knows
        """
        try:
            if in_time and handle is self._holder:
                return await self._hand_over(handle)
            return await handle._free(in_time)
        except BaseException:
            self.left_by(handle)
            raise

    def left_by(self, handle: LockHandle) -> None:
        """Note that a handle is not used any more; its lock may be had by the next."""
        if self._holder is handle:
            self._holder = None
            self._left_at = monotonic()
        self._wake_first()
        self._forget_if_idle()

    async def _ask_past_the_queue(self, wanted: Wanted) -> LockHandle | LockRecord | None:
        new = partial(new_claim, wanted.lease, metadata=wanted.metadata)
        answer = await claim_once(self._provider, self._key, new, wanted.lease, wanted.releaser)
        return self._claimed_by(answer) if isinstance(answer, LockHandle) else answer.record

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
                await release(waiter.handle)
            raise

    async def _turn_of(self, waiter: Waiter, give_up_at: float) -> LockHandle | LockRecord | None:
        may_ask = self._held_here() is None
        while True:
            waiter.woken = anyio.Event()
            asks = self._waiters[0] is waiter and not waiter.promised
            if asks and may_ask and self._rest_until <= monotonic():
                handle = await self._ask(waiter, give_up_at)
                if handle is not None:
                    waiter.handle = self._claimed_by(handle)
                    return waiter.handle
            left = give_up_at - monotonic()
            if left <= 0:
                return self._record()
            if asks:
                self._watch()
            pause = self._pause() if asks else math.inf  # The end of a handover wakes the first.
            if (waiting := waiter.wanted.waiting) is not None:
                waiting.begins(self._held_here(), self._record())
            woken = await _set_within(waiter.woken, min(left, pause))
            if waiter.handle is not None:
                return waiter.handle
            if not woken and (not asks or (left <= pause and self._held_here() is not None)):
                return self._record()
            may_ask = not woken or self._held_here() is None

    async def _ask(self, waiter: Waiter, give_up_at: float) -> LockHandle | None:
        waiter.asking = True
        held_here = self._held_here() is not None  # and perhaps freed by force
        waiting_since = monotonic() if held_here else max(waiter.arrived, self._left_at)
        answer_by = max(give_up_at, monotonic() + REQUEST_SECONDS)
        try:
            return await self._poller.ask(waiter.wanted, waiting_since, answer_by)
        finally:
            waiter.asking = False

    def _watch(self) -> None:
        if self._stop_watching is None:
            self._stop_watching = watch(self._provider, "lock", self._key, self._told)

    def _told(self) -> None:
        """Have the first ask soon: the store tells that the lock is free."""
        if self._waiters and self._held_here() is None and self._poller.told():
            self._wake_first()

    def _pause(self) -> float:
        """Return the seconds until the first in the queue asks, unless it is woken before."""
        now = monotonic()
        if (holder := self._held_here()) is not None:
            # Its release wakes the first; this is for a lock that was freed by force.
            pause = max(LONGEST_POLL_SECONDS, holder._lease / LOOKS_PER_LEASE)
            return min(pause, holder._deadline - now)
        return max(self._rest_until - now, 0.0) or self._poller.pause()

    async def _leave(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            was_first = self._waiters[0] is waiter
            self._waiters.remove(waiter)
            if was_first:
                self._wake_first()
        if not self._waiters:
            if self._stop_watching is not None:
                self._stop_watching()
                self._stop_watching = None
            await self._poller.end_reservation()

    async def _hand_over(self, handle: LockHandle) -> bool:
        """Hand the lock over to the first waiter that takes it, or else free it.

        ``current`` is the handle that has the lock: at first ``handle``, and then that of each
        waiter which has left before it could get it.
        """
        current = handle
        deadline = monotonic() + CLEAN_UP_SECONDS
        while self._may_hand_over() and monotonic() < deadline - FREEING_SECONDS:
            waiter = self._waiters[0]
            wanted = waiter.wanted
            claim = new_claim(wanted.lease, metadata=wanted.metadata)
            sent = monotonic()
            waiter.promised = True
            try:
                reply = await self._offer(current, claim, deadline)
            finally:
                waiter.promised = False
            if reply is None:  # Either of the two has the lock, or neither.
                try:
                    freed = await current._free(True)
                finally:
                    taken_back = await self._take_back(claim.nonce, deadline)
                return freed or taken_back
            if not reply.granted or reply.record is None:
                if reply.record is None or reply.record.nonce != current._nonce:
                    return current is not handle  # It was lost before.
                self._rest_until = monotonic() + jittered(FIRST_POLL_SECONDS)
                break  # Another process has reserved the next turn.
            current = LockHandle(
                self._provider, self._key, reply.record, sent, wanted.lease, wanted.releaser
            )
            self._in_a_row += 1
            if not waiter.gone and current.lost is None:
                self._deliver(waiter, current)
                return True
        if current is handle:
            return await handle._free(True)
        await self._take_back(current._nonce, deadline)  # Nobody has a handle to free it with.
        return True

    def _may_hand_over(self) -> bool:
        return bool(
            self._in_a_row < MOST_IN_A_ROW and self._waiters and not self._waiters[0].asking
        )

    async def _offer(
        self, current: LockHandle, claim: LockClaim, deadline: float
    ) -> LockReply | None:
        """Ask the store to hand over; ``None`` if nobody knows whether it did."""
        try:
            with anyio.move_on_after(deadline - FREEING_SECONDS - monotonic(), shield=True):
                return await urgently(
                    ask(self._provider.hand_over_lock, self._key, current._nonce, claim)
                )
        except GogoscopeError:
            return None
        except BaseException:  # such as asyncio's own cancellation, which knows no shield
            await self._take_back(current._nonce, deadline)
            await self._take_back(claim.nonce, deadline)
            raise
        return None

    async def _take_back(self, nonce: str, deadline: float) -> bool:
        return await take_back(self._provider, self._key, nonce, deadline - monotonic())

    def _deliver(self, waiter: Waiter, handle: LockHandle) -> None:
        waiter.handle = self._held_by(handle)
        self._waiters.remove(waiter)
        waiter.woken.set()

    def _claimed_by(self, handle: LockHandle) -> LockHandle:
        self._in_a_row = 0
        return self._held_by(handle)

    def _held_by(self, handle: LockHandle) -> LockHandle:
        self._holder = handle
        self._poller.reset()
        return handle

    def _held_here(self) -> LockHandle | None:
        holder = self._holder
        return holder if holder is not None and holder.lost is None else None

    def _record(self) -> LockRecord | None:
        holder = self._held_here()
        return self._poller.record if holder is None else holder._record

    def _wake_first(self) -> None:
        if self._waiters:
            self._waiters[0].woken.set()

    def _forget_if_idle(self) -> None:
        idle = not self._users and self._held_here() is None
        if idle and self._queues.get(self._key) is self:
            del self._queues[self._key]


def _no_queues() -> dict[str, LockQueue]:
    return {}


_queues = PerStore("lock_queues", _no_queues)


def queue_of(provider: LockProvider, key: str) -> LockQueue:
    """Return the queue of a lock in the current event loop; it lasts while it is in use."""
    queues = _queues.of(provider)
    queue = queues.get(key)
    if queue is None:
        queue = queues[key] = LockQueue(provider, key, queues)
    return queue


async def _set_within(event: anyio.Event, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        await event.wait()
    return event.is_set()
