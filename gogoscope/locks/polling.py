"""Asking a store for a lock again and again, on behalf of all who wait for it in one event loop.

The pauses between two requests follow three rules:

1. They double, up to a limit. Where the lock changes hands often, the limit is lower, and it falls
   the longer one waits: so whoever has waited longest asks most often.
2. None is longer than until the holder's lease is over.
3. They are jittered, so that processes do not ask in step.

A store that tells when the lock is free ends a pause: that of whoever has reserved the next turn,
if anybody has. Else many may be told at once, and one of them gets the lock. So whoever was told
and came too late goes on as if nobody told it, until it reserves the next turn.

A process that hands the lock over among its own tasks could keep it from the others for ever. So a
poller that has waited for ``RESERVE_AFTER_SECONDS`` reserves the next turn in the store, and renews
that reservation while it waits: the holder's process cannot hand the lock over then, only release
it, and only the claims of this poller are granted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Protocol

import anyio
from attrs import frozen

from gogoscope._core.background import Spawn
from gogoscope._core.cancellation import finish
from gogoscope._core.clock import monotonic
from gogoscope._core.jitter import jittered
from gogoscope.exceptions import GogoscopeError, StoreTimeoutError
from gogoscope.persistence.asking import ask
from gogoscope.persistence.lock_claims import claim_handle, new_claim
from gogoscope.persistence.lock_handle import LockHandle, Releaser
from gogoscope.persistence.lock_records import LockRecord, LockReply
from gogoscope.persistence.lock_watching import RESERVATION_SECONDS, watched_of
from gogoscope.persistence.protocols.locks import LockProvider

FIRST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.5
BUSY_POLL_SECONDS = 0.05
RESERVE_AFTER_SECONDS = 0.25
LEAST_SECONDS = 0.02
"""How long after a request a hint is followed, while the next request would come soon anyway."""
END_RESERVATION_SECONDS = 0.5


class ToldOfWait(Protocol):
    """Is told that a lock is waited for."""

    def begins(self, holder: LockHandle | None, record: LockRecord | None) -> None:
        """Note who has the lock: a holder of this event loop, or the lock as it was last seen."""
        ...


@frozen
class Wanted:
    """What is asked for: a lease in seconds, and what to tell people about the holder.

    ``spawn`` runs in the background what is left to do when the wait has ended. ``releaser`` is
    what the handle asks to free the lock. ``waiting``, if given, is told if somebody has it.
    """

    lease: float
    metadata: Mapping[str, str]
    spawn: Spawn
    releaser: Releaser
    waiting: ToldOfWait | None


class Poller:
    """Asks for one lock, as often as makes sense."""

    # record: the lock as the last refusal showed it; None before, and once the lock was had here.
    # _turn: the name of this poller's reservations.
    # _interval: the next pause before it is jittered and bounded.
    # _busy: the longest pause while the holders change.
    # _may_reserve_at: when the present wait is long enough for a reservation; infinity if it was
    #   so at the last request.
    # _reserved_until: when our reservation ends; minus infinity if there is none.
    # _dead_at: when the holder's lease will be over, as the store said.
    # _watched: when it will be over by this process's clock alone.
    # _told: whether the next request is made since the store told that the lock is free.
    # _came_late: whether one that was made for that reason was refused.
    # _asked_at: when the last request was made.

    def __init__(self, provider: LockProvider, key: str) -> None:
        self._provider = provider
        self._key = key
        self._turn = os.urandom(8).hex()
        self._busy = BUSY_POLL_SECONDS
        self._may_reserve_at = math.inf
        self._watched = watched_of(provider, key)
        self._begin()

    def reset(self) -> None:
        """Forget the holder, since the lock was had here."""
        self._begin()
        self._watched.look(None)

    def _begin(self) -> None:
        self.record: LockRecord | None = None
        self._interval = FIRST_POLL_SECONDS
        self._reserved_until = -math.inf
        self._dead_at = math.inf
        self._told = self._came_late = False
        self._asked_at = -math.inf

    async def ask(
        self, wanted: Wanted, waiting_since: float, answer_by: float
    ) -> LockHandle | None:
        """Ask once; that is one request, rarely two.

        :param waiting_since: since when nobody of this event loop has had the lock
        :param answer_by: when to stop waiting for an answer
        :returns: the handle of the lock, or ``None`` if somebody else has it
        :raises StoreTimeoutError: if there was no answer by then, nor one before
        """
        # The first look of a wait is a plain claim: what was seen before it may be long past.
        seen = None if self.record is None else self._watched.dead(self._turn)
        waited = monotonic() - waiting_since
        may_reserve_at = waiting_since + RESERVE_AFTER_SECONDS
        may_reserve = monotonic() >= may_reserve_at  # the sum that pause() leads to: it is rounded
        self._may_reserve_at = math.inf if may_reserve else may_reserve_at
        was_told, self._told = self._told, False
        self._asked_at = monotonic()
        self._busy = BUSY_POLL_SECONDS * RESERVE_AFTER_SECONDS / max(waited, RESERVE_AFTER_SECONDS)
        if (
            seen is None
            and may_reserve
            and self._should_reserve()
            and not await self._reserve_finds_it_free(answer_by)
        ):
            return None
        try:
            answer = await claim_handle(
                self._provider,
                self._key,
                new_claim(wanted.lease, metadata=wanted.metadata, turn=self._turn),
                wanted.lease,
                seen=seen,
                releaser=wanted.releaser,
                patience=answer_by - monotonic(),
                spawn=wanted.spawn,
            )
        except StoreTimeoutError:
            if self.record is None or monotonic() < answer_by:
                raise
            return None  # The wait is over, and an earlier answer told who has the lock.
        if isinstance(answer, LockHandle):
            self.reset()
            return answer
        self._look(answer)
        if was_told:
            self._came_late = True
            self._interval = max(self._interval, self._busy)
        return None

    def told(self) -> bool:
        """Note that the store tells that the lock is free; return whether to ask now."""
        now, record = monotonic(), self.record
        if self._reserved_until > now:
            return True
        if self._came_late or (record is not None and record.next_turn not in (None, self._turn)):
            return False
        if self._interval <= self._busy and now < self._asked_at + LEAST_SECONDS:
            return False  # It changes hands so fast that another request comes soon enough.
        self._told = True
        return True

    def pause(self) -> float:
        """Return the seconds until it makes sense to ask again."""
        now = monotonic()
        dead_at = min(
            self._watched.dead_at(self._turn), self._dead_at if self._dead_at > now else math.inf
        )
        renew_at = self._renew_at if self._renew_at > now else math.inf
        look_at = min(self._may_reserve_at, renew_at, dead_at + jittered(FIRST_POLL_SECONDS))
        return min(jittered(self._interval), max(0.0, look_at - now))

    async def end_reservation(self) -> None:
        """End a reservation, shielded and bounded, since nobody waits here any more."""
        if self._reserved_until > monotonic():
            self._reserved_until = -math.inf
            await finish(self._end_reservation, END_RESERVATION_SECONDS)

    async def _end_reservation(self) -> None:
        try:
            await ask(self._provider.reserve_lock, self._key, self._turn, 0)
        except GogoscopeError:
            return  # It ends by itself, soon.

    def _should_reserve(self) -> bool:
        return (
            self.record is not None
            and self.record.nonce is not None
            and monotonic() >= self._renew_at
        )

    @property
    def _renew_at(self) -> float:
        """When our reservation is to be renewed; minus infinity if there is none."""
        return self._reserved_until - RESERVATION_SECONDS / 2

    async def _reserve_finds_it_free(self, answer_by: float) -> bool:
        """Reserve the next turn; return whether the lock can be had at once instead."""
        asked = monotonic()
        had_it = asked < self._reserved_until
        self._reserved_until = asked + RESERVATION_SECONDS  # Even if no answer should come.
        reply = None
        with anyio.move_on_after(answer_by - asked):
            reply = await ask(
                self._provider.reserve_lock,
                self._key,
                self._turn,
                int(RESERVATION_SECONDS * 1000),
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
        """Learn from an answer who has the lock, and how long the next pause shall be."""
        before, record = self.record, reply.record
        now = monotonic()
        self.record = record
        self._watched.look(record)
        self._dead_at = now + reply.dead_in_ms / 1000 if reply.dead_in_ms else math.inf
        if record is None or record.next_turn != self._turn:
            self._reserved_until = -math.inf
        changed_hands = before is None or record is None or before.nonce != record.nonce
        longest = self._busy if changed_hands else LONGEST_POLL_SECONDS
        self._interval = min(longest, self._interval * 2)
