"""The share of recent calls that failed or were slow; pure, the time is a parameter."""

from __future__ import annotations

from collections import deque

from attrs import define, field

BUCKETS = 10


@define
class _Bucket:
    number: int
    calls: int = 0
    failures: int = 0
    slow: int = 0


@define
class RateWindow:
    """Counts the calls of the last ``seconds``, a tenth of the window at a time.

    It takes the same memory and time however many calls there are. Calls that are older than the
    window are forgotten, at most a tenth of the window early.

    :param seconds: the window
    """

    seconds: float
    calls: int = field(init=False, default=0)
    failures: int = field(init=False, default=0)
    slow: int = field(init=False, default=0)
    _buckets: deque[_Bucket] = field(init=False, factory=deque)

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count a call that ended at ``now``, in seconds of a clock that never goes back."""
        number = int(now * BUCKETS / self.seconds)
        self._forget(number - BUCKETS)
        if not self._buckets or self._buckets[-1].number < number:
            self._buckets.append(_Bucket(number))
        for counts in (self, self._buckets[-1]):
            counts.calls += 1
            counts.failures += failed
            counts.slow += slow

    def clear(self) -> None:
        """Forget every call."""
        self._buckets.clear()
        self.calls = self.failures = self.slow = 0

    def excess(
        self, minimum_calls: int, failure_rate: float | None, slow_rate: float | None
    ) -> int:
        """Return how many calls failed or were slow if that is too many of them, else 0.

        :param minimum_calls: with fewer calls no rate is judged
        :param failure_rate: the share of failures that is too high, or ``None``
        :param slow_rate: the share of slow calls that is too high, or ``None``
        """
        if self.calls < minimum_calls:
            return 0
        excess = 0
        if failure_rate is not None and self.failures >= failure_rate * self.calls:
            excess = self.failures
        if slow_rate is not None and self.slow >= slow_rate * self.calls:
            excess = max(excess, self.slow)
        return excess

    def _forget(self, last: int) -> None:
        while self._buckets and self._buckets[0].number <= last:
            old = self._buckets.popleft()
            self.calls -= old.calls
            self.failures -= old.failures
            self.slow -= old.slow
