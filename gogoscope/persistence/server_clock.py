"""The clock of a server, as a client knows it without asking each time.

An answer says what the server's clock showed at some moment between the request and the answer. So
the difference between that clock and the monotonic one of this process is known up to the length of
a round trip. Each answer narrows it down; with time it widens again, since clocks do not run alike.
This is Cristian's algorithm (Probabilistic clock synchronization, 1989), with the intersection of
Marzullo's.

Mutable state: the difference was between ``_low`` and ``_high``, in milliseconds, at the monotonic
time ``_at``. An answer that contradicts it says that the server's clock was set, or that this is
another server: then only that answer counts, and ``_was_set`` says so from then on, since the times
that others have written before mean nothing by such a clock.
"""

from __future__ import annotations

import math

from gogoscope._core.clock import monotonic
from gogoscope.exceptions import PersistenceError

DRIFT = 200e-6
"""How much faster or slower one clock runs than another, at most: twice that of a bad quartz."""


SET_MS = 50
"""By how many milliseconds an answer must contradict earlier ones to show a clock that was set."""


class ServerClock:
    """The clock of a server; it must learn from an answer before it can tell the time."""

    __slots__ = ("_at", "_high", "_low", "_was_set")

    def __init__(self) -> None:
        self._low = -math.inf
        self._high = math.inf
        self._at = 0.0
        self._was_set = False

    def learn(self, server_ms: int, sent: float, received: float, *, step_ms: int = 1) -> None:
        """Learn from an answer.

        :param server_ms: what the server's clock showed, rounded down
        :param sent: when the request was sent, by ``monotonic()``
        :param received: when the answer was there, likewise
        :param step_ms: to how many milliseconds it was rounded
        """
        low, high = server_ms - received * 1000, server_ms + step_ms - sent * 1000
        error = self._drifted(received)
        self._at = received
        self._low, self._high = max(low, self._low - error), min(high, self._high + error)
        if self._low > self._high:
            self._was_set = self._was_set or self._low - self._high > SET_MS
            self._low, self._high = low, high

    def now_ms(self) -> int:
        """Return the server's time in milliseconds since the Unix epoch; makes no request.

        :raises PersistenceError: if there was no answer yet: the store was not opened
        """
        self._check()
        return int(monotonic() * 1000 + (self._low + self._high) / 2)

    def error_ms(self) -> int:
        """Return by how many milliseconds :meth:`now_ms` is wrong at most, rounded up.

        :raises PersistenceError: likewise
        """
        self._check()
        return math.ceil((self._high - self._low) / 2 + self._drifted(monotonic()))

    def was_set(self) -> bool:
        """Return whether the server's clock was set since this one learnt from it first."""
        return self._was_set

    def _check(self) -> None:
        if self._high == math.inf:
            raise PersistenceError("the store is not open: its server has not told the time yet")

    def _drifted(self, now: float) -> float:
        return max(0.0, now - self._at) * 1000 * DRIFT
