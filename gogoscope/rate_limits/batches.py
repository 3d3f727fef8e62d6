"""How many places a process reserves at once, and those that it holds."""

from __future__ import annotations

from collections import deque

from attrs import define, field

from gogoscope._core.clock import monotonic

LOOKS_BACK = 0.25
"""``batch="auto"`` takes as many places as were used in that many seconds."""


@define(eq=False)
class Place:
    """When a call may go, and what it costs.

    ``at_us`` is that time by the store's clock, and ``go_at`` the same by ``monotonic()``;
    ``tat_us`` is what the bucket was with it. ``local`` tells that no store knows of it.
    """

    cost_us: int
    tat_us: int
    at_us: int
    go_at: float
    local: bool = False


@define(eq=False)
class Batches:
    """The places that a process holds for its next calls.

    :param most: how many it takes at once, at most
    :param auto: whether it takes as many as it has used lately, instead of ``most``

    Mutable state: ``_held`` are places that were reserved beyond what was asked for, the earliest
    first. ``_used`` counts the calls so far; ``_marks`` are some of its values with their times,
    the first of them as old as what ``batch="auto"`` looks back, or the only one.
    """

    _most: int
    _auto: bool
    _held: deque[Place] = field(factory=deque)
    _used: int = 0
    _marks: deque[tuple[float, int]] = field(factory=deque)

    def holds(self) -> bool:
        """Return whether a place is held."""
        return bool(self._held)

    def take(self, ends: float) -> Place | None:
        """Return a place that is held, and whose time comes before ``ends``."""
        if not self._held or self._held[0].go_at > ends:
            return None
        self._used += 1
        return self._held.popleft()

    def keep(self, places: list[Place]) -> None:
        """Hold places for the calls to come."""
        self._held.extend(places)

    def drop(self) -> None:
        """Hold no places any more: they are lost."""
        self._held.clear()

    def more(self, asking: int) -> int:
        """Return how many places to reserve beyond those of the calls that ask."""
        if self._most == 1:
            return 0
        self._used += asking
        if not self._auto:
            return max(0, self._most - asking)
        now = monotonic()
        marks = self._marks
        while len(marks) > 1 and marks[1][0] <= now - LOOKS_BACK:
            marks.popleft()
        lately = 0.0
        if marks:
            since, before = marks[0]
            lately = (self._used - before) * LOOKS_BACK / max(now - since, LOOKS_BACK)
        marks.append((now, self._used))
        return max(0, min(self._most, int(lately)) - asking)
