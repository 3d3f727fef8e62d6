"""Results on their way to one consumer, in the order of their items or as they come.

At most ``limit`` items are out at a time: running, or finished and not delivered. So nothing grows
with the number of items, and a slow consumer slows the workers.

``_out`` are the items that are out and not delivered: all of them where the order counts, only
the finished ones where it does not. ``room`` is how many more may be out, ``half`` is half of the
limit. ``_waiting`` is what the consumer awaits; several tasks may be the consumer together.

A consumer may want all results at the end instead. Then finished items are not out any more, and
nothing wakes it before. ``_collected`` holds what is there of each item: its task, and as soon as
that has succeeded only the result, so that tasks do not pile up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from typing import Generic, TypeVar

from gogoscope._core.context import slots_around, slots_lent
from gogoscope._core.event_loop import EventLoop
from gogoscope.scopes.results import Ok
from gogoscope.scopes.task import Task

Item = TypeVar("Item")
T = TypeVar("T")


class Delivery(Generic[Item, T]):
    """The results of one map.

    :param limit: how many items may be out
    :param ordered: whether results are delivered in the order of the items
    """

    __slots__ = ("_collected", "_loop", "_ordered", "_out", "_waiting", "half", "room")

    def __init__(self, limit: int, *, ordered: bool) -> None:
        self.half = (limit + 1) // 2
        self._ordered = ordered
        self._out: deque[tuple[Item, Task[T]]] = deque()
        self._loop: EventLoop | None = None
        self._waiting: list[Awaitable[None]] = []
        self.room = limit
        self._collected: list[Ok[T] | Task[T]] | None = None

    @property
    def empty(self) -> bool:
        """Whether no item is out that could be delivered some time."""
        return not (self._out or self._collected)

    def begin_in(self, loop: EventLoop) -> None:
        """Note in which event loop the consumer waits."""
        self._loop = loop

    def collect(self) -> None:
        """Note that the consumer wants all results at the end; nothing is out yet."""
        self._collected = []

    def begin(self, item: Item, task: Task[T]) -> int:
        """Note that an item is being run; return its place."""
        if self._collected is not None:
            self._collected.append(task)
            return len(self._collected) - 1
        if self._ordered:
            self._out.append((item, task))
        return 0

    def finish(self, place: int, item: Item, task: Task[T]) -> None:
        """Note that an item has been run, for a consumer that is still there."""
        if self._collected is not None:
            if isinstance(task._result, Ok):
                self._collected[place] = task._result
            self.room += 1
            return
        if not self._ordered:
            self._out.append((item, task))
        elif self._out[0][1]._result is None:
            return
        if self._waiting:
            self.wake()

    def drop(self, task: Task[T]) -> None:
        """Do not deliver the result of a task."""
        self._out = deque(pair for pair in self._out if pair[1] is not task)

    def take(self) -> tuple[Item, Task[T]] | None:
        """Take the next result, and make room for one more; ``None`` if it is not ready."""
        out = self._out
        if not out or out[0][1]._result is None:
            return None
        self.room += 1
        return out.popleft()

    def take_all(self) -> list[Ok[T] | Task[T]]:
        """Take all that was collected, or is out."""
        taken = self._collected or [task for _, task in self._out]
        self._collected = None
        self._out.clear()
        return taken

    def wake(self) -> None:
        """Wake the consumer, for which something has changed."""
        loop, waiting, self._waiting = self._loop, self._waiting, []
        for waiter in waiting:
            if loop is not None:
                loop.wake(waiter)

    async def change(self) -> None:
        """Wait until something changes, and lend the consumer's slots meanwhile."""
        assert self._loop is not None
        waiter = self._loop.waiter()
        self._waiting.append(waiter)
        try:
            if slots_around():
                async with slots_lent():
                    await waiter
            else:
                await waiter
        except BaseException:
            with suppress(ValueError):
                self._waiting.remove(waiter)
            raise
