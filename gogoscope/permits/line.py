"""The tasks of one event loop that wait for permits of one semaphore or read/write lock.

First in, first out: only the first in the line asks the store; when it leaves, the next one does.
So a hundred that wait make no more requests than one. A release hands the permit over to the first
in the line in one write, if it fits.

Between processes the store keeps the order (:mod:`gogoscope.persistence.rules.permits`): the first
in a line reserves its turn, and whoever came later is refused until it has had it. A writer does so
at once, so that no reader comes between it and the readers before it. Others do so when they have
waited for ``RESERVE_AFTER_SECONDS``: until then a process may pass permits on among its own tasks.

What always holds:

1. A waiter has a claim in flight (``asking``) or a handover to it (``promised``), never both: so it
   cannot be granted two permits.
2. A permit that arrives for a waiter which has left (``gone``) is passed on, or freed. When no
   answer to a request comes, whatever it may have taken is taken back.
3. A turn that was reserved is given up when its waiter leaves without a permit. If that fails, or
   the process dies, it ends by itself within ``TURN_SECONDS``.
4. A line can be found as long as anybody waits in it or holds a permit that was taken in it.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial

import anyio

from gogoscope._core.cancellation import finish
from gogoscope._core.clock import monotonic
from gogoscope._core.per_store import PerStore
from gogoscope.exceptions import GogoscopeError, StoreTimeoutError
from gogoscope.permits.polling import LONGEST_POLL_SECONDS, Polling
from gogoscope.permits.waiting import Waiter, Wanted
from gogoscope.permits.wish import Wish
from gogoscope.persistence.asking import ask
from gogoscope.persistence.lock_claims import claim_handle, take_back
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle, release
from gogoscope.persistence.lock_records import LockClaim, LockRecord
from gogoscope.persistence.permit_records import PermitKind, PermitReply
from gogoscope.persistence.protocols.permits import PermitProvider
from gogoscope.persistence.urgency import urgently
from gogoscope.persistence.watching import Stop, watch

LOOKS_PER_LEASE = 3
REQUEST_SECONDS = 1.0
"""How long an answer is waited for, however short the wait for a permit may be."""
RESERVE_AFTER_SECONDS = 0.25
TURN_SECONDS = 2.0
"""How long a turn that is reserved lasts, unless it is renewed."""
LEAVE_SECONDS = 0.5
FREEING_SECONDS = CLEAN_UP_SECONDS / 2
"""The part of the time for a release that handovers must leave, so that a permit can be freed."""


class PermitLine:
    """The line for one semaphore or read/write lock.

    :param wish: names it
    :param lines: where the line is found while it is in use
    """

    # _held: the permits that were taken here and are not released, and what each takes.
    # _users: how many calls of take() have not returned.
    # _had_at: when a permit was last had here; waiting for others counts from then.
    # _polling: what the refusals have shown.
    # _stop_watching: ends that the store tells this line; None while it does not.

    def __init__(
        self, provider: PermitProvider, wish: Wish, lines: dict[tuple[str, str], PermitLine]
    ) -> None:
        self._provider = provider
        self._kind: PermitKind = wish.kind
        self._key = wish.key
        self._lines = lines
        self._polling = Polling(provider, wish)
        self._stop_watching: Stop | None = None
        self._waiters: deque[Waiter] = deque()
        self._held: dict[LockHandle, Wish] = {}
        self._users = 0
        self._had_at = -math.inf

    async def take(self, wanted: Wanted) -> LockHandle | list[LockRecord]:
        """Take a permit; return its handle, or else the leases of those who hold them."""
        self._users += 1
        waiter = Waiter(self._provider, wanted)
        try:
            if wanted.wish.patience > 0:
                return await self._wait(waiter)
            return await self._ask_past_the_line(waiter)
        finally:
            self._users -= 1
            self._forget_if_idle()

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        """Free the permit of a handle, or hand it over; return whether the handle held it.

        :param in_time: whether its lease still runs, as far as this process knows
        """
        try:
            if in_time and handle in self._held:
                return await self._hand_over(handle)
            return await handle._free(in_time)
        except BaseException:
            self.left_by(handle)
            raise

    def left_by(self, handle: LockHandle) -> None:
        """Note that a handle is not used any more; its permit may be had by the next."""
        if self._held.pop(handle, None) is not None:
            self._had_at = monotonic()
        self._wake_first()
        self._forget_if_idle()

    async def _ask_past_the_line(self, waiter: Waiter) -> LockHandle | list[LockRecord]:
        """Ask once, past the line; once more if somebody was watched until now, who is dead."""
        for _ in range(2):
            handle = await self._claim(waiter, math.inf)
            if handle is not None:
                return self._held_by(handle, waiter)
            if not self._polling.dead():
                break
        return self._leases(waiter)

    async def _wait(self, waiter: Waiter) -> LockHandle | list[LockRecord]:
        self._waiters.append(waiter)
        try:
            try:
                return await self._turn_of(waiter, waiter.arrived + waiter.wanted.wish.patience)
            finally:
                waiter.gone = True
                await self._leave(waiter)
        except BaseException:
            if waiter.handle is not None:
                await release(waiter.handle)
            raise

    async def _turn_of(self, waiter: Waiter, give_up_at: float) -> LockHandle | list[LockRecord]:
        may_ask = not self._in_the_way(waiter)
        while True:
            waiter.woken = anyio.Event()
            asks = self._waiters[0] is waiter and not waiter.promised
            if asks and may_ask:
                handle = await self._ask(waiter, give_up_at)
                if handle is not None:
                    waiter.handle = self._held_by(handle, waiter)
                    return handle
            left = give_up_at - monotonic()
            if left <= 0:
                return self._leases(waiter)
            if asks and self._stop_watching is None:
                self._stop_watching = watch(self._provider, self._kind, self._key, self._told)
            # The end of a handover wakes the first.
            pause = self._pause(waiter) if asks else math.inf
            woken = await _set_within(waiter.woken, min(left, pause))
            if waiter.handle is not None:
                return waiter.handle
            may_ask = not woken or not self._in_the_way(waiter)

    def _told(self) -> None:
        """Have the first ask: the store tells that whoever is next may have a permit."""
        if self._polling.is_next:
            self._wake_first()

    async def _ask(self, waiter: Waiter, give_up_at: float) -> LockHandle | None:
        waiter.asking = True
        if waiter.wanted.wish.takes == "all" or monotonic() >= self._may_reserve_at(waiter):
            waiter.reserved = True
        waiter.leases.turn_ms = int(TURN_SECONDS * 1000) if waiter.reserved else 0
        answer_by = max(give_up_at, monotonic() + REQUEST_SECONDS)
        known = waiter.leases.found is not None
        try:
            return await self._claim(waiter, answer_by)
        except StoreTimeoutError:
            if not known or monotonic() < answer_by:
                raise
            return None  # The wait is over, and an earlier answer told who holds the permits.
        finally:
            waiter.asking = False

    async def _claim(self, waiter: Waiter, answer_by: float) -> LockHandle | None:
        wanted, leases = waiter.wanted, waiter.leases
        leases.dead = self._polling.dead()
        answer = await claim_handle(
            leases,
            self._key,
            waiter.new_claim(),
            wanted.wish.lease,
            releaser=wanted.releaser,
            patience=answer_by - monotonic(),
            spawn=wanted.spawn,
        )
        if isinstance(answer, LockHandle):
            return answer
        if leases.found is not None:
            waited = monotonic() - waiter.arrived
            self._polling.look(leases.found, waiter.turn, waited, answer.dead_in_ms)
        return None

    def _pause(self, waiter: Waiter) -> float:
        """Return the seconds until the first in the line asks, unless it is woken before."""
        now = monotonic()
        if here := self._in_the_way(waiter):
            # A release wakes the first; this is for permits that were freed by force.
            pause = max(LONGEST_POLL_SECONDS, min(one._lease for one in here) / LOOKS_PER_LEASE)
            return min(pause, min(one._deadline for one in here) - now)
        pause = self._polling.pause()
        if waiter.reserved:
            return pause
        return min(pause, max(0.0, self._may_reserve_at(waiter) - now))

    def _may_reserve_at(self, waiter: Waiter) -> float:
        return max(waiter.arrived, self._had_at) + RESERVE_AFTER_SECONDS

    def _live(self) -> list[LockHandle]:
        return [handle for handle in self._held if handle.lost is None]

    def _leases(self, waiter: Waiter) -> list[LockRecord]:
        """Return the leases of those who hold permits, as far as they are known."""
        here = self._in_the_way(waiter)
        record = waiter.leases.found or self._polling.record
        if here or record is None:  # nobody in the line may have asked
            return [handle._record for handle in here or self._live()]
        return [permit.lease for permit in record.holders.values()]

    def _in_the_way(self, waiter: Waiter) -> list[LockHandle]:
        """Return what is held here if it leaves no room, so that it makes no sense to ask.

        Whoever has a turn to reserve or to renew asks all the same.
        """
        wish = waiter.wanted.wish
        if waiter.reserved or wish.takes == "all":
            return []
        held = self._live()
        full = wish.limit is not None and len(held) >= wish.limit
        return held if full or any(self._held[handle].takes == "all" for handle in held) else []

    async def _leave(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            was_first = self._waiters[0] is waiter
            self._waiters.remove(waiter)
            if was_first:
                self._wake_first()
        if not self._waiters and self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        if waiter.reserved and waiter.handle is None:
            await finish(partial(self._give_up_turn, waiter.turn), LEAVE_SECONDS)

    async def _give_up_turn(self, turn: str) -> None:
        try:
            await urgently(ask(self._provider.leave_turn, self._kind, self._key, turn))
        except GogoscopeError:
            return  # It ends by itself, soon.

    async def _hand_over(self, handle: LockHandle) -> bool:
        """Hand the permit over to the first waiter that takes it, or else free it.

        ``current`` is the handle that has the permit: at first ``handle``, and then that of each
        waiter which has left before it could get it.
        """
        current = handle
        deadline = monotonic() + CLEAN_UP_SECONDS
        while monotonic() < deadline - FREEING_SECONDS:
            waiter = self._next()
            if waiter is None:
                break
            claim = waiter.new_claim()
            sent = monotonic()
            waiter.promised = True
            try:
                reply = await self._offer(waiter, current, claim, deadline)
            finally:
                waiter.promised = False
            if reply is None:  # Either of the two has a permit, or neither.
                try:
                    freed = await current._free(True)
                finally:
                    taken_back = await self._take_back(waiter, claim.nonce, deadline)
                return freed or taken_back
            if not reply.granted or reply.record is None:
                return reply.freed or current is not handle  # It is free, or it was lost before.
            wanted = waiter.wanted
            lease = reply.record.holders[claim.nonce].lease
            granted = LockHandle(
                waiter.leases, self._key, lease, sent, wanted.wish.lease, wanted.releaser
            )
            if not waiter.gone and granted.lost is None:
                self._deliver(waiter, granted)
                return True
            current = granted
        if current is handle:
            return await handle._free(True)
        # Nobody has a handle to free it with.
        await take_back(current._store, self._key, current._nonce, deadline - monotonic())
        return True

    def _next(self) -> Waiter | None:
        """Return the first waiter to whom nothing is promised; none may overtake one that asks."""
        for waiter in self._waiters:
            if waiter.asking:
                return None
            if not waiter.promised:
                return waiter
        return None

    async def _offer(
        self, waiter: Waiter, current: LockHandle, claim: LockClaim, deadline: float
    ) -> PermitReply | None:
        """Ask the store to hand over; ``None`` if nobody knows whether it did."""
        waiter.leases.turn_ms = 0
        try:
            with anyio.move_on_after(deadline - FREEING_SECONDS - monotonic(), shield=True):
                return await urgently(
                    ask(waiter.leases.hand_over, self._key, current._nonce, claim)
                )
        except GogoscopeError:
            return None
        except BaseException:  # such as asyncio's own cancellation, which knows no shield
            await self._take_back(waiter, current._nonce, deadline)
            await self._take_back(waiter, claim.nonce, deadline)
            raise
        return None

    async def _take_back(self, waiter: Waiter, nonce: str, deadline: float) -> bool:
        return await take_back(waiter.leases, self._key, nonce, deadline - monotonic())

    def _deliver(self, waiter: Waiter, handle: LockHandle) -> None:
        waiter.handle = self._held_by(handle, waiter)
        self._waiters.remove(waiter)
        waiter.woken.set()

    def _held_by(self, handle: LockHandle, waiter: Waiter) -> LockHandle:
        self._held[handle] = waiter.wanted.wish
        self._had_at = monotonic()
        self._polling.begin()
        return handle

    def _wake_first(self) -> None:
        if self._waiters:
            self._waiters[0].woken.set()

    def _forget_if_idle(self) -> None:
        name = self._kind, self._key
        if not self._users and not self._live() and self._lines.get(name) is self:
            del self._lines[name]


_lines: PerStore[dict[tuple[str, str], PermitLine]] = PerStore("permit_lines", dict)


def line_of(provider: PermitProvider, wish: Wish) -> PermitLine:
    """Return the line for a permit in the current event loop; it lasts while it is in use."""
    lines = _lines.of(provider)
    name = wish.kind, wish.key
    line = lines.get(name)
    if line is None:
        line = lines[name] = PermitLine(provider, wish, lines)
    return line


async def _set_within(event: anyio.Event, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        await event.wait()
    return event.is_set()
