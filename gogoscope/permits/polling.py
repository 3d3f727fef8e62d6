"""When to ask for a permit again, and who of those that have one is dead.

The pauses between two requests follow three rules, as those for a lock do:

1. They double, up to a limit, which is lower where the holders change.
2. None is longer than until the next lease is over.
3. They are jittered, so that processes do not ask in step.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from gogoscope._core.clock import monotonic
from gogoscope._core.jitter import jittered
from gogoscope._core.per_store import PerStore
from gogoscope.permits.wish import Wish
from gogoscope.persistence.permit_records import PermitsRecord
from gogoscope.persistence.protocols.permits import PermitProvider

FIRST_POLL_SECONDS = 0.02
BUSY_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 0.5
USUAL_WAIT = 0.25
"""Whoever is next, and has waited for longer than this, asks the more often."""


class Polling:
    """Learns from the refusals of one semaphore or read/write lock.

    ``record`` is what the last one showed, ``is_next`` whether nobody waited before its caller.
    """

    # _watching: whose lease is over by the clock of this process alone.
    # _interval: the next pause before it is jittered and bounded.
    # _dead_at: when the first lease of the others will be over, as the store said.

    def __init__(self, provider: PermitProvider, wish: Wish) -> None:
        self._watching = _watching_of(provider, wish)
        self._interval = FIRST_POLL_SECONDS
        self._dead_at = math.inf
        self.record: PermitsRecord | None = None
        self.is_next = False

    def dead(self) -> dict[str, int]:
        """Return the versions of those who were watched for a whole lease, and are dead."""
        return self._watching.dead()

    def begin(self) -> None:
        """Note that a permit was had here."""
        self._interval = FIRST_POLL_SECONDS

    def look(self, record: PermitsRecord, turn: str, waited: float, dead_in_ms: int) -> None:
        """Note what a refusal showed.

        :param turn: the name of the caller's own turn
        :param waited: for how long it has waited, in seconds
        :param dead_in_ms: when the first lease of the others will be over; 0 if nobody knows
        """
        self._watching.look(record, turn)
        self._dead_at = monotonic() + dead_in_ms / 1000 if dead_in_ms else math.inf
        before, self.record = self.record, record
        self.is_next = next(iter(record.waiting), turn) == turn
        longest = LONGEST_POLL_SECONDS
        if before is None or before.holders.keys() != record.holders.keys():
            longest = BUSY_POLL_SECONDS
            if self.is_next and waited > USUAL_WAIT:
                longest *= USUAL_WAIT / waited
        self._interval = min(longest, self._interval * 2)

    def pause(self) -> float:
        """Return the seconds until it makes sense to ask again."""
        now = monotonic()
        dead_at = min(
            self._watching.dead_at(now), self._dead_at if self._dead_at > now else math.inf
        )
        return min(jittered(self._interval), dead_at - now + jittered(FIRST_POLL_SECONDS))


class Watching:
    """Watches the leases of one semaphore or read/write lock, on the clock of this process.

    A lease that was seen unchanged for its whole length was not renewed: its owner is dead,
    whatever any clock says.
    """

    # _seen: of each lease its version, and when that will have been seen for long enough.

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self, record: PermitsRecord, turn: str) -> None:
        """Note the permits as they are now.

        :param turn: the name of one's own turn, which nobody has to wait for
        """
        now = monotonic()
        seen: dict[str, tuple[int, float]] = {}
        for name, permit in (*record.holders.items(), *record.waiting.items()):
            lease = permit.lease
            known = self._seen.get(name)
            if known is None or known[0] != lease.version:
                known = lease.version, now + lease.lease_ms / 1000 + _A_MOMENT
            if name != turn:
                seen[name] = known
        self._seen = seen

    def dead(self) -> dict[str, int]:
        """Return the versions of those whose owners are dead."""
        now = monotonic()
        return {name: version for name, (version, dead_at) in self._seen.items() if dead_at <= now}

    def dead_at(self, now: float) -> float:
        """Return when the next one will be seen to be dead, unless it changes before."""
        return min(
            (dead_at for _, dead_at in self._seen.values() if dead_at > now), default=math.inf
        )


_A_MOMENT = 0.001

MOST_REMEMBERED = 1024

_watchings: PerStore[OrderedDict[tuple[str, str], Watching]] = PerStore(
    "permit_watches", OrderedDict
)


def _watching_of(provider: PermitProvider, wish: Wish) -> Watching:
    """Return what the current event loop has seen; what was asked for least lately is forgotten."""
    known = _watchings.of(provider)
    watching = known.setdefault((wish.kind, wish.key), Watching())
    known.move_to_end((wish.kind, wish.key))
    if len(known) > MOST_REMEMBERED:
        known.popitem(last=False)
    return watching
