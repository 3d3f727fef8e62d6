"""Asking a store for a lock again and again, for all who wait for it in one event loop."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio
from attrs import frozen

from gogoscope._core.clock import monotonic
from gogoscope._core.jitter import jittered
from gogoscope.exceptions import GogoscopeError, StoreTimeoutError
from gogoscope.persistence.lock_handle import LockHandle, Spawn, claim_handle

if TYPE_CHECKING:
    from gogoscope.persistence.lock_records import LockRecord, LockReply
    from gogoscope.persistence.protocols.locks import LockProvider

FIRST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.5
BUSY_POLL_SECONDS = 0.05
RESERVE_AFTER_SECONDS = 0.25
RESERVATION_SECONDS = 1.0
GIVE_BACK_SECONDS = 0.5


@frozen
class Wanted:
    """What one who waits asks for: a lease in seconds, and what to tell people about the holder.

    ``spawn`` runs in the background what is left to do for it when it waits no more.
    """

    lease: float
    metadata: Mapping[str, str]
    spawn: Spawn


class Poller:
    """Asks for one lock until it is had; the last refusal is its ``record``.

    Its pauses grow while the holder stays the same, and end when its lease does. One who waited
    for 250 ms reserves the next turn, so that a process which hands the lock over among its own
    cannot keep it from others.
    """

    def __init__(self, provider: LockProvider, key: str) -> None:
        self._provider = provider
        self._key = key
        self._turn = os.urandom(8).hex()
        self._busy = BUSY_POLL_SECONDS
        self._may_reserve_at = -math.inf
        self.reset()

    async def ask(
        self, wanted: Wanted, waiting_since: float, give_up_at: float
    ) -> LockHandle | None:
        """Ask once, for one who may have the lock; one request, rarely two.

        :param waiting_since: since when nobody of this event loop had the lock
        :param give_up_at: when to wait for an answer no more
        :raises StoreTimeoutError: if there was none by then, nor before
        """
        seen = self._watched.dead()
        waited = monotonic() - waiting_since
        self._may_reserve_at = waiting_since + RESERVE_AFTER_SECONDS
        # Where the lock changes hands often, who waits longest asks most often.
        self._busy = BUSY_POLL_SECONDS * RESERVE_AFTER_SECONDS / max(waited, RESERVE_AFTER_SECONDS)
        if (
            seen is None
            and waited >= RESERVE_AFTER_SECONDS
            and self._may_reserve()
            and not await self._reserve_finds_it_free(give_up_at)
        ):
            return None
        try:
            answer = await claim_handle(
                self._provider,
                self._key,
                wanted.lease,
                metadata=wanted.metadata,
                seen=seen,
                turn=self._turn,
                patience=give_up_at - monotonic(),
                spawn=wanted.spawn,
            )
        except StoreTimeoutError:
            if self.record is None or monotonic() < give_up_at:
                raise
            return None  # The wait is over, and an earlier answer told who has the lock.
        if isinstance(answer, LockHandle):
            self.reset()
            return answer
        self._look(answer)
        return None

    def pause(self) -> float:
        """Return the seconds until it makes sense to ask again."""
        now = monotonic()
        pause = jittered(self._interval)
        if self._may_reserve_at > now:
            pause = min(pause, self._may_reserve_at - now)
        dead_at = min(self._watched.dead_at(), self._dead_at if self._dead_at > now else math.inf)
        return min(pause, max(0.0, dead_at - now + jittered(FIRST_POLL_SECONDS)))

    def reset(self) -> None:
        """Forget the holder, since the lock was had here."""
        self.record: LockRecord | None = None
        self._watched = Watched(self._turn)
        self._interval = FIRST_POLL_SECONDS
        self._reserved_until = -math.inf
        self._dead_at = math.inf

    async def give_back_turn(self) -> None:
        """Return a reservation back, shielded and bounded, since nobody waits here any more."""
        if self._reserved_until > monotonic():
            self._reserved_until = -math.inf
            with anyio.move_on_after(GIVE_BACK_SECONDS, shield=True):
                try:
                    await self._provider.reserve_lock(self._key, self._turn, 0)
                except GogoscopeError:
                    return  # It ends by itself, soon.

    def _may_reserve(self) -> bool:
        return (
            self.record is not None
            and self.record.nonce is not None
            and self._reserved_until - monotonic() < RESERVATION_SECONDS / 2
        )

    async def _reserve_finds_it_free(self, give_up_at: float) -> bool:
        asked = monotonic()
        had_it = asked < self._reserved_until
        self._reserved_until = asked + RESERVATION_SECONDS  # Even if no answer should come.
        reply = None
        with anyio.move_on_after(give_up_at - asked):
            reply = await self._provider.reserve_lock(
                self._key, self._turn, int(RESERVATION_SECONDS * 1000)
            )
        if reply is None:
            return False
        self._look(reply)
        if reply.granted:
            if not had_it:
                self._interval = FIRST_POLL_SECONDS
            return reply.dead_in_ms == 0
        return self.record is None or self.record.owner is None

    def _look(self, reply: LockReply) -> None:
        before, record = self.record, reply.record
        now = monotonic()
        self.record = record
        self._watched.look(record)
        self._dead_at = now + reply.dead_in_ms / 1000 if reply.dead_in_ms else math.inf
        if record is None or record.next_turn != self._turn:
            self._reserved_until = -math.inf
        if before is None or record is None or before.nonce != record.nonce:
            self._interval = min(self._busy, self._interval * 2)
        else:
            self._interval = min(LONGEST_POLL_SECONDS, self._interval * 2)


class Watched:
    """Watches a holder, and another's reservation, without trusting any clock but its own.

    A holder that did not renew for its whole lease is dead, and so is who reserved the next turn
    and did not renew that for as long as a reservation lasts.

    :param turn: what our own reservations are made under
    """

    def __init__(self, turn: str) -> None:
        self._turn = turn
        self._record: LockRecord | None = None
        self._held_since = 0.0
        self._reserved_since = 0.0

    def look(self, record: LockRecord | None) -> None:
        """Note the lock as it now is."""
        before, self._record = self._record, record
        if record is None:
            return
        now = monotonic()
        if before is None or (before.nonce, before.version) != (record.nonce, record.version):
            self._held_since = now
        if before is None or (before.next_turn, before.next_until_ms) != (
            record.next_turn,
            record.next_until_ms,
        ):
            self._reserved_since = now

    def dead(self) -> LockRecord | None:
        """Return the lock if who has it, or has its next turn, is dead."""
        return self._record if monotonic() >= self.dead_at() else None

    def dead_at(self) -> float:
        """Tell when the lock is to be had unless it changes until then."""
        record = self._record
        if record is None:
            return math.inf
        if record.nonce is not None:
            return self._held_since + record.lease_ms / 1000 + _A_MOMENT
        if record.owner is None and record.next_turn not in (None, self._turn):
            return self._reserved_since + RESERVATION_SECONDS + _A_MOMENT
        return math.inf


_A_MOMENT = 0.001
