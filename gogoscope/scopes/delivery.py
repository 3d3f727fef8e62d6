"""Results on their way to one consumer: in the order of their items, or as they come.

At most ``limit`` items are out at a time: running, or finished and not delivered. So nothing grows
with the number of items, and a slow consumer slows the workers.

``_queue`` are the tasks that are delivered next: all that are out where the order counts, only the
finished ones where it does not. ``room`` is how many more may be out, ``half`` is half of the
limit. ``consumers`` wait for results: several tasks may be the consumer together.

A consumer may want all results at the end instead. Then finished items are not out any more, and
nothing wakes it before.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

from gogoscope._core.context import slots_around, slots_lent
from gogoscope.scopes.results import Ok
from gogoscope.scopes.task import Task
from gogoscope.scopes.waiters import Waiters

Item = TypeVar("Item")
T = TypeVar("T")


class Delivery(Generic[Item, T]):
    """The results of one map, in the order of the items.

    :param limit: how many items may be out
    """

    __slots__ = ("_queue", "consumers", "half", "items", "room")

    items: dict[Task[T], Item] | None
    """The items that are out, for a consumer that wants them, too."""

    def __init__(self, limit: int) -> None:
        self.room = limit
        self.half = (limit + 1) // 2
        self.items = None
        self.consumers = Waiters()
        self._queue: deque[Task[T]] = deque()

    @property
    def tasks(self) -> list[Task[T]]:
        """The tasks of the items that run, or could be delivered some time."""
        return list(self._queue)

    def begin(self, item: Item, task: Task[T]) -> int:
        """Note that an item is being run; return its place."""
        self._queue.append(task)
        return 0

    def finish(self, place: int, task: Task[T]) -> None:
        """Note that an item has been run, for a consumer that is still there."""
        if self.consumers.waiting and self._queue[0]._result is not None:
            self.consumers.call_all()

    def drop(self, task: Task[T]) -> None:
        """Do not deliver the result of a task."""
        with suppress(ValueError):
            self._queue.remove(task)

    def take(self) -> Task[T] | None:
        """Take the next task, and make room for one more; ``None`` if it has not finished."""
        queue = self._queue
        if queue and queue[0]._result is not None:
            self.room += 1
            return queue.popleft()
        return None

    def clear(self) -> None:
        """Forget all tasks."""
        self._queue.clear()

    async def change(self) -> None:
        """Wait until something changes, and lend the consumer's slots meanwhile."""
        if slots_around():
            async with slots_lent():
                await self.consumers.wait()
        else:
            await self.consumers.wait()


class AsCompleted(Delivery[Item, T]):
    """The results of one map, as they come."""

    __slots__ = ("_items",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._items: dict[Task[T], Item] = {}
        self.items = self._items

    @property
    def tasks(self) -> list[Task[T]]:
        """The tasks of the items that run, or could be delivered some time."""
        return list(self._items)

    def begin(self, item: Item, task: Task[T]) -> int:
        """Note that an item is being run."""
        self._items[task] = item
        return 0

    def finish(self, place: int, task: Task[T]) -> None:
        """Note that an item has been run, for a consumer that is still there."""
        self._queue.append(task)
        if self.consumers.waiting:
            self.consumers.call_all()

    def drop(self, task: Task[T]) -> None:
        """Do not deliver the result of a task."""
        self._items.pop(task, None)

    def clear(self) -> None:
        """Forget all tasks."""
        super().clear()
        self._items.clear()


class AtTheEnd(Delivery[Item, T]):
    """The results of one map, all at once.

    ``collected`` holds what is there of each item: its task, and as soon as that has succeeded only
    the result, so that tasks do not pile up.
    """

    __slots__ = ("collected",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.collected: list[Ok[T] | Task[T]] = []

    @property
    def tasks(self) -> list[Task[T]]:
        """The tasks of the items that run, or have failed."""
        return [one for one in self.collected if isinstance(one, Task)]

    def begin(self, item: Item, task: Task[T]) -> int:
        """Note that an item is being run; return its place."""
        collected = self.collected
        collected.append(task)
        return len(collected) - 1

    def finish(self, place: int, task: Task[T]) -> None:
        """Note that an item has been run, which makes room for one more."""
        result = task._result
        if type(result) is Ok:
            self.collected[place] = result
        self.room += 1

    def drop(self, task: Task[T]) -> None:
        """Do nothing: an error of the map itself is raised instead of all results."""

    def clear(self) -> None:
        """Forget all tasks and results."""
        self.collected = []
