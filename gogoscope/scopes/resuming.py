"""``s.resume``: running a function on each item, and going on where an earlier process stopped.

The work is a task of the scope, the runner: it holds the job, and runs the items inside it. Each
result is handed to the loop, one at a time. An item is done when the loop comes back for the next
one: so whatever the body of the loop did with a result, it did before that is saved.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import anyio

from gogoscope._core.cancellation import finish
from gogoscope._core.clock import monotonic
from gogoscope._core.context import slots_lent
from gogoscope.jobs.positions import Positions
from gogoscope.scopes.results import Err, Ok
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

LAST_SAVE_SECONDS = 2.0
"""How long the last save may take, when the loop is left early."""


class AtJob(Protocol):
    """The block of a job, in which the items run."""

    state: Any
    finished: bool

    async def save(self, state: Any, *, done: int | None = None, total: int | None = None) -> None:
        """Save a state."""
        ...


class Resumed(Generic[Item, T]):
    """Yields ``(item, result)`` of the items that are not done yet, as they come: ``async for``.

    Nothing starts before the loop does. Leaving the loop early cancels what runs.

    :param spawn: starts a task of the scope
    :param resuming: what that task runs
    """

    # _runner: the task that holds the job, once the loop has begun.

    def __init__(
        self,
        spawn: Callable[[Callable[[], Awaitable[None]]], Task[None]],
        resuming: Resuming[Item, T],
    ) -> None:
        self._spawn = spawn
        self._resuming = resuming
        self._runner: Task[None] | None = None

    def __repr__(self) -> str:
        state = "not started" if self._runner is None else self._runner.state
        return f"<s.resume({self._resuming.key!r}) {state}>"

    def __aiter__(self) -> Self:
        if self._runner is not None:
            raise RuntimeError(f"{self!r} was looped over before; call s.resume again")
        return self

    async def __anext__(self) -> tuple[Item, Ok[T] | Err]:
        if self._runner is None:
            self._runner = self._spawn(self._resuming.run)
            self._runner._watcher = self._resuming.wake
        handed = await self._resuming.next(self._runner)
        if handed is not None:
            return handed
        (await self._runner).unwrap()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._give_up()

    def __del__(self) -> None:
        with suppress(Exception):  # the event loop may have ended
            self._give_up()

    def _give_up(self) -> None:
        if self._runner is not None:
            self._runner.cancel(f"the loop over s.resume({self._resuming.key!r}) was left")


class Resuming(Generic[Item, T]):
    """What the runner does; it knows nothing of the loop, which may be dropped.

    :param block: the block of the job
    :param start: runs the items
    :param items: the items, in the same order each time
    :param save_every: seconds between two saves, at least
    :param retry_failed: whether to run again what failed before
    """

    # _handed: the result that the loop is to take.
    # _ready: is set when there is one, or when the runner has ended.
    # _asked: is set when the loop comes back for the next one.

    def __init__(
        self,
        block: LeaseBlock[Any],
        start: Start[Item, T],
        items: Iterable[Item] | AsyncIterable[Item],
        save_every: float,
        *,
        retry_failed: bool,
    ) -> None:
        self.key = block.key
        self._block = block
        self._start = start
        self._items = items
        self._save_every = save_every
        self._retry_failed = retry_failed
        self._handed: tuple[Item, Ok[T] | Err] | None = None
        self._ready = anyio.Event()
        self._asked = anyio.Event()

    async def next(self, runner: Task[None]) -> tuple[Item, Ok[T] | Err] | None:
        """Return the next result, ``None`` after the last."""
        self._asked.set()
        if self._handed is None and not runner.done:
            async with slots_lent():
                await self._ready.wait()
        self._ready = anyio.Event()
        handed, self._handed = self._handed, None
        return handed

    def wake(self) -> None:
        """Let the loop see that the runner has ended."""
        self._ready.set()

    async def run(self) -> None:
        """Hold the job, and hand over the results of what is not done."""
        async with self._block as job:
            done = Positions(job.state, retry_failed=self._retry_failed)
            if job.finished and not self._retry_failed:
                return
            saving = _Saving(job, done, self._save_every, self._items)
            try:
                async for (position, item), result in self._start(
                    job, _remaining(self._items, done)
                ):
                    await self._hand_over(item, result)
                    if not _is_unread(result):
                        done.add(position, failed=isinstance(result, Err))
                        await saving.save_if_due()
            finally:
                await finish(saving.save, LAST_SAVE_SECONDS)

    async def _hand_over(self, item: Item, result: Ok[T] | Err) -> None:
        """Hand a result to the loop, and wait until it comes back."""
        self._asked = anyio.Event()
        self._handed = item, result
        self._ready.set()
        async with slots_lent():
            await self._asked.wait()


def _is_unread(result: Ok[T] | Err) -> bool:
    return isinstance(result, Err) and result._watch is not None


class _Saving:
    """Saves what is done, no more often than it may."""

    def __init__(self, job: AtJob, done: Positions, every: float, items: object) -> None:
        self._job = job
        self._done = done
        self._every = every
        self._total = len(items) if isinstance(items, Sized) else None
        self._saved_at = monotonic()
        self._saved = done.state()

    async def save_if_due(self) -> None:
        if monotonic() - self._saved_at >= self._every:
            await self.save()

    async def save(self) -> None:
        state = self._done.state()
        if state != self._saved:
            self._saved_at = monotonic()
            await self._job.save(state, done=self._done.count, total=self._total)
            self._saved = state


def _remaining(
    items: Iterable[Item] | AsyncIterable[Item], done: Positions
) -> Iterable[Placed[Item]] | AsyncIterable[Placed[Item]]:
    """Return the items that are not done, with their positions."""
    if isinstance(items, AsyncIterable):
        return _remaining_to_come(items, done)
    return (placed for placed in enumerate(items) if placed[0] not in done)


async def _remaining_to_come(
    items: AsyncIterable[Item], done: Positions
) -> AsyncIterator[Placed[Item]]:
    source = aiter(items)
    position = 0
    try:
        async for item in source:
            if position not in done:
                yield position, item
            position += 1
    finally:
        if (close := getattr(source, "aclose", None)) is not None:
            await close()
