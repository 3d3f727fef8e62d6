"""What a process does while the store of its rate limits fails: it has a bucket of its own.

A store that fails is asked again after a second, by one call; the others do not wait for that.
"""

from __future__ import annotations

import math

from attrs import define

from gogoscope._core.clock import monotonic
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateRecord
from gogoscope.persistence.rules import rate_limits as rate_rules
from gogoscope.rate_limits.places import Place

OUTAGE_SECONDS = 1.0
"""How long a store that failed is left alone."""


@define(eq=False)
class Outage:
    """Whether the store fails, and the bucket of this process meanwhile.

    ``failed`` is true from the first request that fails to the next that succeeds; ``ask_at`` is
    when the store may be asked again, by ``monotonic()``. ``_record`` is the bucket's.
    """

    failed: bool = False
    ask_at: float = -math.inf
    _record: RateRecord | None = None

    def lasts(self) -> bool:
        """Return whether the store is to be left alone for now."""
        return self.failed and monotonic() < self.ask_at

    def may_look(self) -> bool:
        """Return whether a call that has its place may ask the store; one a second while it fails.

        The others go without: they would wait for a store that does not answer.
        """
        if self.lasts():
            return False
        self.ask_at = monotonic() + OUTAGE_SECONDS
        return True

    def begin(self) -> bool:
        """Note that a request failed; return whether the one before did not."""
        began = not self.failed
        self.failed = True
        self.ask_at = monotonic() + OUTAGE_SECONDS
        return began

    def end(self) -> bool:
        """Note that a request succeeded; return whether the one before did not."""
        ended, self.failed, self._record = self.failed, False, None
        return ended

    def reserve(
        self, cost_us: int, burst_us: int, wait: float, share: float
    ) -> tuple[Place | None, float]:
        """Reserve a place in the bucket of this process.

        :param cost_us: what the call costs of the whole rate
        :param burst_us: what the whole bucket holds
        :param wait: how long the call may wait, in seconds
        :param share: the share of this process in the rate and in the bucket
        :returns: the place, if there is one, and in how many seconds the call may go
        """
        now = monotonic()
        cost = math.ceil(cost_us / share)
        # A call that fits into the whole bucket must fit into this one.
        holds = max(burst_us, cost)
        self._record, reply = rate_rules.reserve(
            self._record, round(now * 1000), cost, holds, microseconds(wait)
        )
        if not reply.granted:
            return None, (whole_ms(reply.tat_us + cost - holds) - reply.now_us) / 1e6
        at_us = max(reply.tat_us - holds, reply.now_us)
        delay = (at_us - reply.now_us) / 1e6
        return Place(cost_us, reply.tat_us, at_us, now + delay, local=True), delay

    def pause(self, seconds: float, burst_us: int) -> None:
        """Admit nobody for a while, if it is one."""
        if seconds <= 0:
            return
        now_ms = round(monotonic() * 1000)
        self._record, _ = rate_rules.pause(self._record, now_ms, microseconds(seconds), burst_us)

    def is_paused(self, place: Place) -> bool:
        """Return whether the time of a place is in a pause."""
        return self._record is not None and self._record.until_us > place.at_us


def microseconds(seconds: float) -> int:
    """Return a duration in microseconds, a day at most."""
    return LONGEST_WAIT_US if seconds * 1e6 >= LONGEST_WAIT_US else max(0, int(seconds * 1e6))


def whole_ms(time_us: int) -> int:
    """Return when a call may go, by a clock that counts in whole milliseconds as some stores do."""
    return -(-time_us // 1000) * 1000
