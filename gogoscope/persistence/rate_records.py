"""What a store keeps of a rate limit, and what it answers.

All times are whole microseconds, so that every engine counts alike. Those of a record are by the
clock of its store; only their differences mean anything.
"""

from __future__ import annotations

from attrs import frozen

LONGEST_WAIT_US = 86_400_000_000
"""How far ahead a place may be reserved, and how long a pause may last: a day."""


@frozen
class RateRecord:
    """A rate limit as it is stored.

    ``tat_us`` is when the bucket will be full again, by all that was reserved. ``until_us`` is when
    a pause ends or ended, 0 without one.

    ``timeline`` says which clock these times are of, if the store counts by a steady one (see
    :class:`~gogoscope.persistence.lock_records.Steady`), and ``ahead_us`` how far the wall clock
    was ahead of it when the record was written.
    """

    tat_us: int
    until_us: int = 0
    timeline: str | None = None
    ahead_us: int = 0


@frozen
class RateReply:
    """The answer to a request: whether it was granted, and the limit as it is now.

    ``tat_us`` is when the bucket will be full again, after what was granted. ``until_us`` is when a
    pause ends or ended, 0 without one. ``now_us`` is what the store's clock showed when it decided.
    A pause, and a look, are always granted.
    """

    granted: bool
    tat_us: int
    until_us: int
    now_us: int

    def state(self) -> RateLimitState:
        """Return the same for people."""
        full_us, paused_us = self.tat_us - self.now_us, self.until_us - self.now_us
        return RateLimitState(max(0, full_us) / 1e6, max(0, paused_us) / 1e6)


@frozen
class RateLimitState:
    """A rate limit, for people.

    ``full_in`` is in how many seconds its bucket is full again, 0 if it is. ``paused_for`` is how
    many more seconds nobody is admitted, 0 if it is not paused.
    """

    full_in: float
    paused_for: float
