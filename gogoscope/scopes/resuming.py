"""``s.resume``: running a function on each item, and going on where an earlier process stopped.

The work is a task of the scope, the runner: it holds the job, and runs the items inside it. Each
result is handed to the loop, one at a time. An item is done when the loop comes back for the next
one: so whatever the body of the loop did with a result, it did before that is saved.

What is done is saved when it is due: by the runner between two items, or by a companion of it if no
item comes meanwhile (:mod:`gogoscope.scopes.saving`).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio

from gogoscope._core.context import slots_lent
from gogoscope._core.event_loop import running
from gogoscope.exceptions import TaskCancelled
from gogoscope.jobs.positions import Positions
from gogoscope.jobs.progress import JobProgress
from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.saving import Saving
from gogoscope.scopes.task import Task

if TYPE_CHECKING:
    from gogoscope.locks.lease_block import LeaseBlock
    from gogoscope.scopes.mapping import Completed

Item = TypeVar("Item")
T = TypeVar("T")
Placed = tuple[int, Item]
Start = Callable[
    [Any, Iterable[Placed[Item]] | AsyncIterable[Placed[Item]]], "Completed[Placed[Item], T]"
]
"""Runs the function on items with their positions, as tasks of the block of the job."""


Spawn = Callable[[Callable[[], Awaitable[None]]], Task[None]]
"""Starts a task of the scope."""


class Resumed(Generic[Item, T]):
    """Yields ``(item, result)`` of the items that are not done yet, as they come: ``async for``.

    Nothing starts before the loop does. Leaving the loop early cancels what runs, even if this has
    a name: the loop has an iterator of its own, which ends with it.

    :param spawn: starts the runner
    :param resuming: what it runs
    """

    # _runner: the task that holds the job, once the loop has begun.

    def __init__(self, spawn: Spawn, resuming: Resuming[Item, T]) -> None:
        self._spawn = spawn
        self._resuming = resuming
        self._runner: Task[None] | None = None

    def __repr__(self) -> str:
        state = "not started" if self._runner is None else self._runner.state
        return f"<s.resume({self._resuming.key!r}) {state}: {self.progress}>"

    @property
    def progress(self) -> JobProgress:
        """How many items are done by now, those of earlier processes included, of how many."""
        return self._resuming.progress()

    def __aiter__(self) -> ResumedLoop[Item, T]:
        if self._runner is not None:
            raise RuntimeError(f"{self!r} was looped over before; call s.resume again")
        self._runner = self._spawn(self._resuming.run)
        return ResumedLoop(self._runner, self._resuming)

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        if self._runner is not None:
            self._resuming.give_up(self._runner)


class ResumedLoop(Generic[Item, T]):
    """One loop over the items. When it is left, what runs is cancelled.

    :param runner: the task that holds the job
    :param resuming: what it runs
    """

    __slots__ = ("_loop", "_resuming", "_runner")

    def __init__(self, runner: Task[None], resuming: Resuming[Item, T]) -> None:
        self._runner = runner
        self._resuming = resuming
        self._loop = running()
        runner._watcher = resuming.wake

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Item, Ok[T] | Err]:
        if not self._loop.is_here():
            self._runner._parent._check_here()
        handed = await self._resuming.next(self._runner)
        if handed is not None:
            return handed
        (await self._runner).unwrap()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._resuming.give_up(self._runner)

    def __del__(self) -> None:
        # Garbage is collected in whichever thread happens to need memory.
        give_up = partial(self._resuming.give_up, self._runner)
        with suppress(Exception):  # the event loop may have ended
            if self._loop.is_here():
                give_up()
            else:
                self._loop.call_from_anywhere(give_up)


class Resuming(Generic[Item, T]):
    """What the runner does; it knows nothing of the loop, which may be dropped.

    :param block: the block of the job
    :param start: runs the items
    :param items: the items, in the same order each time
    :param total: how many there are, ``None`` if that is not known unless they tell
    :param save_every: seconds between two saves, at least
    :param retry_failed: whether to run again what failed before
    """

    # _handed: the result that the loop is to take.
    # _ready: is set when there is one, or when the runner has ended.
    # _asked: is set when the loop comes back for the next one.
    # _saving: knows what is done, once the job is held.

    def __init__(
        self,
        block: LeaseBlock[Any],
        start: Start[Item, T],
        items: Iterable[Item] | AsyncIterable[Item],
        total: int | None,
        save_every: float,
        *,
        retry_failed: bool,
    ) -> None:
        self.key = block.key
        self._block = block
        self._start = start
        self._items = items
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._save_every = save_every
        self._retry_failed = retry_failed
        self._handed: tuple[Item, Ok[T] | Err] | None = None
        self._ready = anyio.Event()
        self._asked = anyio.Event()
        self._saving: Saving | None = None

    def progress(self) -> JobProgress:
        """Return how many items are done."""
        if self._saving is None:
            return JobProgress(0, self._total)
        return self._saving.meter.progress()

    async def next(self, runner: Task[None]) -> tuple[Item, Ok[T] | Err] | None:
        """Return the next result, ``None`` after the last."""
        self._asked.set()
        if self._handed is None and not runner.done:
            async with slots_lent():
                await self._ready.wait()
        self._ready = anyio.Event()
        handed, self._handed = self._handed, None
        return handed

    def give_up(self, runner: Task[None]) -> None:
        """Cancel the runner: nobody wants the rest."""
        runner.cancel(f"the loop over s.resume({self.key!r}) was left")

    def wake(self) -> None:
        """Let the loop see that the runner has ended."""
        self._ready.set()

    async def run(self) -> None:
        """Hold the job, and hand over the results of what is not done.

        :raises TaskCancelled: if an item has cancelled the block of the job
        """
        async with self._block as job:
            done = Positions(job.state, retry_failed=self._retry_failed)
            self._saving = saving = Saving(job, done, self._total, self._save_every)
            if job.finished and not self._retry_failed:
                return
            await saving.kept_up(partial(self._run_items, job, _Seen(done), saving))
        if self._block._cut:
            raise TaskCancelled(f"job {self.key!r} was cancelled")

    async def _run_items(self, job: Any, seen: _Seen, saving: Saving) -> None:
        """Run what is not done, and note what was done of it."""
        async for (position, item), result in self._start(job, seen.left_of(self._items)):
            await self._hand_over(item, result)
            if not _is_unread(result):
                await saving.add(position, failed=isinstance(result, Err))
        saving.know_total(seen.count)

    async def _hand_over(self, item: Item, result: Ok[T] | Err) -> None:
        """Hand a result to the loop, and wait until it comes back."""
        self._asked = anyio.Event()
        self._handed = item, result
        self._ready.set()
        async with slots_lent():
            await self._asked.wait()


def _is_unread(result: Ok[T] | Err) -> bool:
    return isinstance(result, Err) and result._watch is not None


class _Seen:
    """Goes through the items, and counts them.

    :param done: the positions to leave out
    """

    def __init__(self, done: Positions) -> None:
        self._done = done
        self.count = 0

    def left_of(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> Iterable[Placed[Item]] | AsyncIterable[Placed[Item]]:
        """Return the items that are not done, with their positions."""
        return self._coming(items) if isinstance(items, AsyncIterable) else self._there(items)

    def _there(self, items: Iterable[Item]) -> Iterable[Placed[Item]]:
        for placed in enumerate(items):
            self.count = placed[0] + 1
            if placed[0] not in self._done:
                yield placed

    async def _coming(self, items: AsyncIterable[Item]) -> AsyncIterator[Placed[Item]]:
        source = aiter(items)
        try:
            async for item in source:
                position = self.count
                self.count += 1
                if position not in self._done:
                    yield position, item
        finally:
            if (close := getattr(source, "aclose", None)) is not None:
                await close()
