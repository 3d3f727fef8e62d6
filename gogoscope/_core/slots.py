"""Slots that bound how many tasks of a scope run at a time."""

from __future__ import annotations

import heapq
import itertools
import math
from threading import get_ident

import anyio


class Slots:
    """At most ``limit`` holders at a time: higher priority first, then first in, first out.

    ``_waiting`` is the line, as a heap of places, and ``_places`` tells who stands there. A place
    that was left is passed over. Those are cleared away once they are most of the line, so that a
    long line that is cancelled does not search itself for each who leaves it.
    """

    __slots__ = ("_arrivals", "_free", "_places", "_waiting", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._waiting: list[tuple[float, int]] = []
        self._places: dict[int, Slot] = {}
        self._arrivals = itertools.count()

    def line_up(self, slot: Slot, priority: float) -> None:
        """Put a slot in the line; it is granted at once if one is free."""
        slot.place = place = next(self._arrivals)
        self._places[place] = slot
        heapq.heappush(self._waiting, (-priority, place))
        self._grant()

    def step_out(self, slot: Slot) -> None:
        """Take a slot out of the line."""
        self._places.pop(slot.place, None)
        if len(self._waiting) > 2 * len(self._places):
            self._waiting = [entry for entry in self._waiting if entry[1] in self._places]
            heapq.heapify(self._waiting)

    def give_back(self) -> None:
        """Make one slot free, for the first in line."""
        self._free += 1
        self._grant()

    def seize(self) -> None:
        """Take a slot at once, even beyond the limit; the next free one makes up for it."""
        self._free -= 1

    def _grant(self) -> None:
        while self._free > 0 and self._waiting:
            slot = self._places.pop(heapq.heappop(self._waiting)[1], None)
            if slot is not None:
                self._free -= 1
                slot.grant()


class Slot:
    """The slot of one task: in line from the beginning, held while it runs.

    :param slots: the slots that it belongs to
    :param priority: higher goes first
    """

    # place: its place in the line, when it stood there last.
    # thread: that of its event loop.

    __slots__ = ("_granted", "_held", "_waits", "place", "slots", "thread")

    def __init__(self, slots: Slots, priority: float) -> None:
        self.slots = slots
        self.place = -1
        self.thread = get_ident()
        self._held = False
        self._granted: anyio.Event | None = None
        self._waits = 0
        slots.line_up(self, priority)

    def grant(self) -> None:
        """Note that its turn has come."""
        self._held = True
        if self._granted is not None:
            self._granted.set()

    async def hold(self) -> None:
        """Wait for its turn; if cancelled, it is neither held nor in the line any more."""
        if not self._held:
            self._granted = anyio.Event()
            try:
                await self._granted.wait()
            except BaseException:
                self.leave()
                raise

    def leave(self) -> None:
        """Give it back, or step out of the line."""
        if self._held:
            self._held = False
            self.slots.give_back()
        else:
            self.slots.step_out(self)

    def lend(self) -> None:
        """Lend it to other tasks while its own task, or one inside of that, waits.

        A task may wait in several places at once (in a task group of its own): the slot is lent
        when the first wait begins, and taken back when the last one has ended.
        """
        self._waits += 1
        if self._waits == 1:
            self.leave()
            if self._granted is not None:  # a wait that is taking it back goes on without it
                self._granted.set()

    async def take_back(self) -> None:
        """End a wait that lent it; wait until it is free, before all others in the line."""
        self._waits -= 1
        if self._waits == 0:
            self.slots.line_up(self, math.inf)
            try:
                await self.hold()
            except BaseException:
                self._seize()
                raise

    def seize_back(self) -> None:
        """End a wait that lent it; take it at once, even beyond the limit."""
        self._waits -= 1
        self._seize()

    def _seize(self) -> None:
        if self._waits == 0 and not self._held:
            self._held = True
            self.slots.seize()


class Lent:
    """Lends slots while the block is open.

    Afterwards the first is waited for, and nothing is held meanwhile, so that those who take back
    slots never wait for each other. The others, of tasks further out, are then taken at once. So
    are all when the wait is cancelled: its code goes on, even beyond the limit.

    :param slots: from the innermost outward
    """

    __slots__ = ("_slots",)

    def __init__(self, slots: list[Slot]) -> None:
        self._slots = slots

    async def __aenter__(self) -> None:
        for slot in self._slots:
            slot.lend()

    async def __aexit__(self, kind: type[BaseException] | None, *details: object) -> None:
        first, *others = self._slots
        try:
            if kind is None:
                await first.take_back()
            else:
                first.seize_back()
        finally:
            for slot in others:
                slot.seize_back()
