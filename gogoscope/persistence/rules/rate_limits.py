"""How a stored rate limit changes, by rules of the form of :mod:`gogoscope.persistence.rules`.

This is the generic cell rate algorithm in its form of virtual scheduling (ITU-T Recommendation
I.371, annex A). A limit is one number, the theoretical arrival time ``tat``: when the bucket will
be full again. A call costs some time, the share of its units in the rate; the bucket holds
``burst_us`` of it. What is reserved moves ``tat`` on by its cost, from now if the bucket is full.
A call may go when ``tat``, with its own cost, is no more than ``burst_us`` ahead; one that may wait
is granted its place earlier, and goes when that time has come. Invariants:

- ``tat`` only goes back when the last place is returned. So whoever was granted a place before
  keeps it, and whoever was refused learns from ``tat`` when a call of that cost may go.
- While it is paused, nothing is reserved for the time of the pause, and nothing is returned,
  whatever burst those allow who ask: for each of them the bucket is empty at its end.
- No place is further ahead than ``LONGEST_WAIT_US``. So a ``tat`` beyond that was written by a
  clock that was wrong, and is not believed: the bucket counts as empty then.
- No time is lost when records are read by another clock than they were written by, after a boot
  say: the wall clock says then how much of it has passed.
"""

from __future__ import annotations

from attrs import frozen

from gogoscope.persistence.lock_records import Steady
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateRecord, RateReply

KEEP_MS = 86_400_000
"""For how long a full bucket is remembered, so that clocks which differ find it."""


def reserve(
    record: RateRecord | None,
    now_ms: int,
    cost_us: int,
    burst_us: int,
    wait_us: int,
    *,
    at: Steady | None = None,
) -> tuple[RateRecord | None, RateReply]:
    """Reserve a place for a call, or show when there will be one.

    :param cost_us: what the call costs
    :param burst_us: what the bucket holds
    :param wait_us: how long the call may wait for its place
    """
    now = _Now.of(now_ms, at)
    tat_us, until_us = now.read(record, burst_us)
    full_us = max(tat_us, now.us) + cost_us
    if full_us - now.us > burst_us + min(wait_us, LONGEST_WAIT_US):
        return record, RateReply(False, tat_us, until_us, now.us)
    return now.record(full_us, until_us), RateReply(True, full_us, until_us, now.us)


def return_place(
    record: RateRecord | None,
    now_ms: int,
    tat_us: int,
    cost_us: int,
    *,
    at: Steady | None = None,
) -> tuple[RateRecord | None, bool]:
    """Return a place, or a part of it, if nobody has reserved one after it.

    :param tat_us: what the bucket was when the place was granted
    :param cost_us: what is returned of its cost
    """
    now = _Now.of(now_ms, at)
    if record is None:
        return None, False
    stored_us, until_us = now.times(record)
    if stored_us != tat_us or until_us > now.us:
        return record, False
    return now.record(tat_us - cost_us, until_us), True


def pause(
    record: RateRecord | None,
    now_ms: int,
    pause_us: int,
    burst_us: int,
    *,
    at: Steady | None = None,
) -> tuple[RateRecord | None, RateReply]:
    """Admit nobody for a while; the bucket is empty then. A longer pause is not made shorter."""
    now = _Now.of(now_ms, at)
    tat_us, until_us = now.read(record, burst_us)
    end_us = now.us + min(pause_us, LONGEST_WAIT_US)
    if record is not None and until_us >= end_us:
        return record, RateReply(True, tat_us, until_us, now.us)
    tat_us = max(tat_us, end_us + burst_us)
    return now.record(tat_us, end_us), RateReply(True, tat_us, end_us, now.us)


def show(record: RateRecord, now_ms: int, *, at: Steady | None = None) -> RateReply:
    """Return a limit as it is."""
    now = _Now.of(now_ms, at)
    return RateReply(True, *now.times(record), now.us)


def purge_at_ms(record: RateRecord, now_ms: int) -> int:
    """Return when nobody can need the record any more, by the wall clock."""
    full_ms = (max(record.tat_us, record.until_us) + record.ahead_us) // 1000
    return max(now_ms, full_ms) + KEEP_MS


@frozen
class _Now:
    """The time by which a store counts; ``ahead_us`` is how far the wall clock is ahead of it."""

    us: int
    timeline: str | None
    ahead_us: int

    @classmethod
    def of(cls, now_ms: int, at: Steady | None) -> _Now:
        if at is None:
            return cls(now_ms * 1000, None, 0)
        return cls(at.ms * 1000, at.timeline, (now_ms - at.ms) * 1000)

    def times(self, record: RateRecord) -> tuple[int, int]:
        """Return the two times of a record by this clock."""
        if record.timeline == self.timeline:
            return record.tat_us, record.until_us
        apart = record.ahead_us - self.ahead_us
        return record.tat_us + apart, record.until_us and record.until_us + apart

    def read(self, record: RateRecord | None, burst_us: int) -> tuple[int, int]:
        """Return the two times of a record, as far as they can be believed."""
        if record is None:
            return self.us, 0
        tat_us, until_us = self.times(record)
        if until_us <= self.us or until_us - self.us > LONGEST_WAIT_US:
            until_us = 0
        if tat_us - self.us > burst_us + LONGEST_WAIT_US:
            tat_us = max(self.us, until_us) + burst_us
        if until_us:
            tat_us = max(tat_us, until_us + burst_us)
        return tat_us, until_us

    def record(self, tat_us: int, until_us: int) -> RateRecord:
        return RateRecord(tat_us, until_us, self.timeline, self.ahead_us)
