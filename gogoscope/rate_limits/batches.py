"""How many places a process reserves at once."""

from __future__ import annotations

from collections import deque

from attrs import define, field

from gogoscope._core.clock import monotonic

LOOKS_BACK = 0.25
"""``batch="auto"`` takes as many places as were used in that many seconds."""


@define(eq=False)
class Batches:
    """Says how many places to reserve for the calls to come.

    :param most: how many a process takes at once, at most
    :param auto: whether it takes as many as it has used lately, instead of ``most``

    Mutable state: ``used`` counts the calls so far. ``_marks`` are some of its values with their
    times, the first of them as old as what ``batch="auto"`` looks back, or the only one.
    """

    most: int
    _auto: bool
    used: int = 0
    _marks: deque[tuple[float, int]] = field(factory=deque)

    def more(self, asking: int) -> int:
        """Return how many places to reserve beyond those of the calls that ask."""
        if self.most == 1:
            return 0
        if not self._auto:
            return max(0, self.most - asking)
        now = monotonic()
        marks, used = self._marks, self.used + asking
        while len(marks) > 1 and marks[1][0] <= now - LOOKS_BACK:
            marks.popleft()
        lately = 0.0
        if marks:
            since, before = marks[0]
            lately = (used - before) * LOOKS_BACK / max(now - since, LOOKS_BACK)
        marks.append((now, used))
        return max(0, min(self.most, int(lately)) - asking)
