"""How far a job has come, and how fast it gets on."""

from __future__ import annotations

from collections import deque

from attrs import frozen

from gogoscope._core.clock import monotonic

WINDOW_SECONDS = 30.0
"""Over how much of the past the rate is measured."""
SAMPLE_SECONDS = 1.0
"""How often, at most, it is noted for that how much is done."""
BAR_WIDTH = 30


@frozen
class JobProgress:
    """How far a job has come; its ``str`` is a line for people.

    ``done`` of ``total`` parts of the work are done, by whichever process; ``total`` is ``None`` if
    nobody has said. ``rate`` is how many parts were done here a second, in the last half minute or
    so; ``None`` before the first.
    """

    done: int = 0
    total: int | None = None
    rate: float | None = None

    @property
    def fraction(self) -> float | None:
        """Which part of the work is done, from 0 to 1; ``None`` without a total."""
        if self.total is None:
            return None
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; ``None`` if that is not known."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate

    def bar(self, width: int = BAR_WIDTH) -> str:
        """Return a bar of ``width`` characters; without a total, an empty one."""
        filled = int(width * (self.fraction or 0.0))
        return "#" * filled + "-" * (width - filled)

    def __str__(self) -> str:
        if self.total is None or self.fraction is None:
            told = [f"{self.done:,} done"]
        else:
            told = [f"{self.done:,} of {self.total:,} ({int(100 * self.fraction)} %)"]
        if self.rate is not None:
            told.append(f"{self.rate:,.0f}/s" if self.rate >= 10 else f"{self.rate:.2g}/s")
        if self.seconds_left:
            told.append(f"{_duration(self.seconds_left)} left")
        return ", ".join(told)


class Meter:
    """Measures how fast a job gets on.

    :param done: how many parts are done by now, ``None`` if nobody has said
    :param total: how many there are; likewise
    """

    # _samples: what was done when, from the beginning of the window on.
    # _noted: what was done at last, and when.

    __slots__ = ("_noted", "_samples", "done", "total")

    def __init__(self, done: int | None, total: int | None) -> None:
        self.done = done
        self.total = total
        self._noted = monotonic(), done or 0
        self._samples = deque([self._noted])

    def note(self, done: int | None, total: int | None) -> None:
        """Note how many parts are done, and how many there are; ``None`` for what is not told."""
        if total is not None:
            self.total = total
        if done is None:
            return
        now = monotonic()
        samples = self._samples
        if done < (self.done or 0):  # it began anew
            samples.clear()
        self.done = done
        self._noted = now, done
        if not samples or now - samples[-1][0] >= SAMPLE_SECONDS:
            samples.append(self._noted)
        while len(samples) > 1 and samples[1][0] <= now - WINDOW_SECONDS:
            samples.popleft()

    @property
    def rate(self) -> float | None:
        """How many parts were done a second."""
        (began, before), (at, done) = self._samples[0], self._noted
        return (done - before) / (at - began) if done > before and at > began else None

    def progress(self) -> JobProgress:
        """Return how far the job has come."""
        return JobProgress(self.done or 0, self.total, self.rate)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"
