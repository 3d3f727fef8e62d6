"""The time that the processes of a fleet share, as far as DynamoDB tells it.

The limits that they share are counted by this time. By their own clocks the one that is ahead would
take nearly all, since it finds room where the others find none yet. The leases of runs, jobs,
permits and ticks go by it, too: by a clock that is behind they would be over before they begin. Two
things correct it:

- Every answer has a ``Date``, in whole seconds. Each says that the server's clock was in that
  second, some time between request and answer; what all of them say together is soon much narrower
  than a second (see :class:`~gogoscope.persistence.ServerClock`).
- Every item says what time it was for whoever wrote it. Who sees a later time than its own goes
  along with that, as far as the ``Date`` of answers allows. So all agree with the one who is ahead.

Between answers the steady clock of the process counts, so it does not matter if the wall clock is
set. Before the first answer, and where answers have no ``Date``, it is the wall clock.

Mutable state: ``_ahead`` is how far the shared time is ahead of the steady clock, in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gogoscope.persistence import Clock, ServerClock, monotonic
from gogoscope_dynamodb.trust import date_of

STEP_MS = 1000


class FleetClock:
    """A time to share.

    :param clock: the wall clock; one that is ``simulated`` is believed whatever answers say
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._server: ServerClock | None = None
        self._ahead = -math.inf
        self._answered = False

    def is_known(self) -> bool:
        """Return whether an answer has told the time, or will never tell it."""
        return self._answered or self._simulated()

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch."""
        if self._server is None or self._simulated():
            return int(self._clock.wall() * 1000)
        told_ms, error_ms = self._server.now_ms(), self._server.error_ms()
        shared_ms = int(monotonic() * 1000 + self._ahead)
        return max(told_ms - error_ms, min(shared_ms, told_ms + error_ms))

    def tells(self) -> bool:
        """Return whether it is the server's time, not that of this machine."""
        return self._server is not None and not self._simulated()

    def latest_ms(self) -> int:
        """Return how late it is at the latest, in milliseconds since the Unix epoch."""
        if self._server is None or self._simulated():
            return int(self._clock.wall() * 1000)
        return self._server.now_ms() + self._server.error_ms()

    def spread_ms(self) -> int:
        """Return how much earlier than ``latest_ms`` it may be."""
        return 2 * self._server.error_ms() if self._server and self.tells() else 0

    def was_set(self) -> bool:
        """Return whether the server's clock was set since this one learnt from it first."""
        return self._server is not None and self._server.was_set()

    def learn(self, response: Mapping[str, Any], sent: float) -> None:
        """Learn from an answer, which was received just now.

        :param sent: when it was asked for, by ``monotonic()``
        """
        self._answered = True
        told = date_of(response)
        if told is None:
            return
        received = monotonic()
        if self._server is None:
            self._server = ServerClock()
        self._server.learn(int(told.timestamp() * 1000), sent, received, step_ms=STEP_MS)
        if self._ahead == -math.inf:
            self._ahead = self._server.now_ms() - received * 1000

    def see(self, other_ms: float) -> None:
        """Learn that it was so late for another process, at least."""
        latest_ms = -math.inf if self._server is None else self.latest_ms()
        self._ahead = max(self._ahead, min(other_ms, latest_ms) - monotonic() * 1000)

    def _simulated(self) -> bool:
        return bool(getattr(self._clock, "simulated", False))
