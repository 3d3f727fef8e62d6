"""Slots that bound how many tasks of a scope run at a time."""

from __future__ import annotations

import heapq
import itertools
import math

import anyio


class Slots:
    """At most ``limit`` holders at a time: higher priority first, then first in, first out."""

    __slots__ = ("_arrivals", "_free", "_waiting", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._waiting: list[tuple[float, int, Slot]] = []
        self._arrivals = itertools.count()

    def line_up(self, slot: Slot, priority: float) -> None:
        """Put a slot in the line; it is granted at once if one is free."""
        heapq.heappush(self._waiting, (-priority, next(self._arrivals), slot))
        self._grant()

    def step_out(self, slot: Slot) -> None:
        """Take a slot out of the line."""
        self._waiting = [entry for entry in self._waiting if entry[2] is not slot]
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
            self._free -= 1
            heapq.heappop(self._waiting)[2].grant()


class Slot:
    """The slot of one task: in line from the beginning, held while it runs.

    :param slots: the slots that it belongs to
    :param priority: higher goes first
    """

    __slots__ = ("_granted", "_held", "_waits", "slots")

    def __init__(self, slots: Slots, priority: float) -> None:
        self.slots = slots
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
