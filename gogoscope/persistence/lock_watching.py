"""Telling that the holder of a lock is dead, without trusting any clock but one's own.

The store compares the end of a lease with its own clock, and two clocks may disagree by more than
the store allows for. But whoever has watched an unchanged lease for its whole length, on one clock,
knows that it was not renewed: then the lock may be taken over, if the store still finds in it what
was watched. The same holds for a reservation of the next turn that was not renewed.

What was seen is remembered from one wait to the next. So a process that asks now and then believes
no end of a lease that a wrong clock wrote for longer than the lease lasts.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from gogoscope._core.clock import monotonic
from gogoscope._core.per_store import PerStore
from gogoscope.persistence.lock_records import LockRecord

RESERVATION_SECONDS = 1.0
"""How long every reservation lasts."""


class Watched:
    """Watches one lock: its holder, and another's reservation of the next turn."""

    # _record: the lock as it was last seen.
    # _held_since: when its nonce and version were first seen; a renewal changes the version.
    # _reserved_since: when its reservation was first seen.

    def __init__(self) -> None:
        self._record: LockRecord | None = None
        self._held_since = 0.0
        self._reserved_since = 0.0

    def look(self, record: LockRecord | None) -> None:
        """Note the lock as it is now."""
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

    def dead(self, turn: str | None = None) -> LockRecord | None:
        """Return the lock if its holder, or whoever reserved its next turn, is dead.

        :param turn: the name of one's own reservations, which are nobody to wait for
        """
        return self._record if monotonic() >= self.dead_at(turn) else None

    def dead_at(self, turn: str | None = None) -> float:
        """Return when the lock may be taken over, unless it is seen to change before."""
        record = self._record
        if record is None:
            return math.inf
        if record.nonce is not None:
            return self._held_since + record.lease_ms / 1000 + _A_MOMENT
        if record.owner is None and record.next_turn not in (None, turn):
            return self._reserved_since + RESERVATION_SECONDS + _A_MOMENT
        return math.inf


_A_MOMENT = 0.001

MOST_REMEMBERED = 4096


class Watches:
    """The locks of one store that were refused here, as they were last seen."""

    def __init__(self) -> None:
        self._watched: OrderedDict[str, Watched] = OrderedDict()

    def of(self, key: str) -> Watched:
        """Return what is known of a lock; what was asked for least lately is forgotten."""
        watched = self._watched.setdefault(key, Watched())
        self._watched.move_to_end(key)
        if len(self._watched) > MOST_REMEMBERED:
            self._watched.popitem(last=False)
        return watched


_watches = PerStore("lock_watches", Watches)


def watched_of(store: object, key: str) -> Watched:
    """Return what the current event loop has seen of a lock in a store."""
    return _watches.of(store).of(key)
