"""Results on their way to one consumer, in the order of their items or as they come.

At most ``limit`` items are out at a time: running, or finished and not delivered. So nothing grows
with the number of items, and a slow consumer slows the workers.

``_out`` are the items that are out and not delivered: all of them where the order counts, only
the finished ones where it does not. ``room`` is how many more may be out. ``collecting`` tells that
the consumer takes all results at the end: then finished items are not out any more, and nothing
wakes it before. ``_changed`` wakes the consumer.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import anyio

from gogoscope._core.context import slots_lent
from gogoscope.scopes.task import Task

Item = TypeVar("Item")
T = TypeVar("T")


class Delivery(Generic[Item, T]):
    """The results of one map.

    :param limit: how many items may be out
    :param ordered: whether results are delivered in the order of the items
    """

    __slots__ = ("_changed", "_limit", "_ordered", "_out", "collecting", "room")

    def __init__(self, limit: int, *, ordered: bool) -> None:
        self._limit = limit
        self._ordered = ordered
        self._out: deque[tuple[Item, Task[T]]] = deque()
        self._changed: anyio.Event | None = None
        self.room = limit
        self.collecting = False

    @property
    def empty(self) -> bool:
        """Whether no item is out that could be delivered some time."""
        return not self._out

    @property
    def half_empty(self) -> bool:
        """Whether there is room enough to let several workers go on at once."""
        return self.room * 2 >= self._limit

    def begin(self, item: Item, task: Task[T]) -> None:
        """Note that an item is being run."""
        if self._ordered:
            self._out.append((item, task))

    def finish(self, item: Item, task: Task[T]) -> None:
        """Note that an item has been run, for a consumer that is still there."""
        if self.collecting:
            self.room += 1
            return
        if not self._ordered:
            self._out.append((item, task))
        elif self._out[0][1]._result is None:
            return
        if self._changed is not None:
            self._changed.set()

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

    def take_all(self) -> list[tuple[Item, Task[T]]]:
        """Take all that is out."""
        taken = list(self._out)
        self._out.clear()
        return taken

    def wake(self) -> None:
        """Wake the consumer, for which something has changed."""
        if self._changed is not None:
            self._changed.set()

    async def change(self) -> None:
        """Wait until something changes, and lend the consumer's slot meanwhile."""
        if self._changed is None or self._changed.is_set():
            self._changed = anyio.Event()
        async with slots_lent():
            await self._changed.wait()
