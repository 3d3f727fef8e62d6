"""Running one function on many items with bounded memory: what ``s.map`` and its kin are made of.

A few workers take the items one after the other, so that an item costs no task of the event loop
and nothing grows with their number. Every item is a task all the same: it has its own context
variables, safety nets and result, which a :class:`~gogoscope.scopes.delivery.Delivery` hands on.

One worker begins. A worker whose item suspends lets one more begin, up to the limit, so that items
which never suspend need only one. A worker that finds no room for one more item is parked.

``_live`` counts the workers that have not ended, ``_parked`` wakes those that wait for room.
``_exhausted`` tells that no further item is to be taken, ``_closed`` that nobody wants results any
more, ``_complete`` that every item was run. ``_failure`` is what the source of the items raised.
``coroutines`` are the items that run now, ``finished`` counts those that have ended.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from gogoscope._core.callables import callable_name
from gogoscope._core.cancellation import checkpoint, never_began
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.block import Block
from gogoscope.scopes.delivery import Delivery
from gogoscope.scopes.outcome import let_interrupt_happen, raise_mistake
from gogoscope.scopes.pipeline import SafetyNets
from gogoscope.scopes.results import Err
from gogoscope.scopes.runner import in_context
from gogoscope.scopes.task import Task

if TYPE_CHECKING:
    from anyio import TaskHandle

Item = TypeVar("Item")
T = TypeVar("T")

DEFAULT_LIMIT = 100
ITEMS_PER_CHECKPOINT = 64


class Workers(Generic[Item, T]):
    """The workers that run a function on items, for one consumer.

    :param block: the scope that the workers end with
    :param fn: the function
    :param items: what it is called with, one by one
    :param limit: how many items may be out: running, or finished and not delivered
    :param nets: what each item runs in, ``None`` for nothing
    :param ordered: whether results are delivered in the order of the items
    """

    def __init__(
        self,
        block: Block,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item] | AsyncIterable[Item],
        limit: int,
        nets: SafetyNets | None,
        *,
        ordered: bool,
    ) -> None:
        self.name = callable_name(fn)
        self.coroutines: dict[Task[T], Coroutine[Any, Any, None]] = {}
        self.finished = 0
        self._block = block
        self._fn = fn
        self._nets = nets
        self._limit = limit
        self._delivery: Delivery[Item, T] = Delivery(limit, ordered=ordered)
        self._source: Iterator[Item] | None = None
        self._async_source: AsyncIterator[Item] | None = None
        if isinstance(items, AsyncIterable):
            self._async_source = aiter(items)
        else:
            self._source = iter(items)
        self._pulling = anyio.Lock()
        self._handles: list[TaskHandle[None]] = []
        self._live = 0
        self._thread = threading.get_ident()
        self._parked: list[anyio.Event] = []
        self._exhausted = False
        self._closed = False
        self._complete = False
        self._failure: Exception | None = None

    def start(self) -> None:
        """Begin to take items.

        :raises ScopeClosedError: outside the scope's block
        """
        self._block._check_open()
        if not self._block._cancelling:
            self._block._works.offer(self)
            self._add_worker()

    def _close(self) -> None:
        """Cancel what runs. Errors that were not delivered are then unhandled."""
        if not self._delivery.empty or self.coroutines or self._live:
            self._complete = False
        self._exhausted = self._closed = True
        self._block._works.taken(self)
        self._report_failure()
        unwanted = {*self.coroutines, *(task for _, task in self._delivery.take_all())}
        for task in unwanted:
            task._note_cancel("its results were not wanted any more")
            task._detach(abandoned=True)
        self._stop()

    def forget(self) -> None:
        """Close it, as nothing can take any more; the scope's end does that for another thread.

        Garbage is collected in whichever thread happens to need memory.
        """
        if threading.get_ident() == self._thread:
            self._close()

    def give_up(self) -> None:
        """Cancel what runs: its only consumer does not want the rest."""
        self._close()
        self._complete = True

    def _stop(self) -> None:
        """Cancel the workers."""
        if self._live:
            for handle in self._handles:
                handle.cancel()

    def _end_unless_begun(self) -> None:
        """Count out the workers whose first step was never taken."""
        for handle in self._handles:
            if self._live and never_began(handle):
                self._exhausted = True
                if self._live == 1 and isinstance(self._source, Generator):
                    self._source.close()
                self._worker_ended()

    async def take(self) -> tuple[Item, Task[T]] | None:
        """Wait for the next finished task and its item; ``None`` after the last.

        :raises Exception: what taking an item from their source raised
        """
        delivery = self._delivery
        while not delivery.ready:
            if not self._live:
                await self._end()
                return None
            self._more_hands()
            await delivery.change()
        taken = delivery.take()
        if self._parked and delivery.half_empty:
            self._more_hands()
        if taken[1]._interrupted:
            await checkpoint()
        return taken

    async def take_all(self) -> list[tuple[Item, Task[T]]]:
        """Wait until every item has been run; none counts as undelivered."""
        self._delivery.lift_limit()
        while self._live:
            await self._delivery.change()
        await self._end()
        taken = self._delivery.take_all()
        await let_interrupt_happen(*(task for _, task in taken))
        return taken

    async def _end(self) -> None:
        """Raise what kept the source from being run to its end."""
        failure, self._failure = self._failure, None
        if failure is not None:
            self.give_up()
            raise failure
        if not self._complete:
            await checkpoint()  # code that is cancelled with the scope must not see an error
            raise TaskCancelled(self._block._why_cancelled())
        self._block._works.taken(self)

    def _report_failure(self) -> None:
        """Hand an error of the source, which no consumer will get, to the scope."""
        failure, self._failure = self._failure, None
        if failure is not None:
            self._block._watch(Err(failure, None))  # dropped at once

    def _more_hands(self) -> None:
        """Let one more worker work, if there may be anything for it to do."""
        if self._exhausted or self._delivery.room <= 0 or self._block._cancelling:
            return
        if self._parked:
            self._parked.pop().set()
        elif self._live < self._limit:
            self._add_worker()

    def _add_worker(self) -> None:
        group = self._block._check_open()
        self._live += 1
        self._handles.append(group.create_task(self._work(), name=f"map {self.name}"))

    async def _work(self) -> None:
        try:
            await self._take_turns()
        except Exception as error:  # noqa: BLE001 - raised by take(), to the code that asked for the items
            self._failure = error
        finally:
            self._exhausted = True
            while self._parked:
                self._parked.pop().set()
            if self._live == 1:
                await self._close_source()
            self._worker_ended()
            del self  # an error of a task keeps the frames that awaited it

    def _worker_ended(self) -> None:
        self._live -= 1
        if self._closed:
            self._report_failure()
        self._delivery.wake()
        if not self._live:
            self._block._works.ended(self)

    async def _take_turns(self) -> None:
        delivery = self._delivery
        try:
            for turn in itertools.count(1):
                while delivery.room <= 0 and not self._exhausted:
                    await self._park()
                if self._exhausted or self._block._cancelling:
                    return
                delivery.room -= 1
                try:
                    item = await self._pull()
                except StopAsyncIteration:
                    self._complete = not self._closed
                    return
                if self._closed:
                    return
                await self._run(item)
                if turn % ITEMS_PER_CHECKPOINT == 0:
                    await checkpoint()
        finally:
            del self, delivery

    async def _close_source(self) -> None:
        """Let a generator that items came from end, as leaving a loop over it would."""
        try:
            if isinstance(self._source, Generator):
                self._source.close()
            elif isinstance(self._async_source, AsyncGenerator):
                with anyio.CancelScope(shield=True):
                    await self._async_source.aclose()
        except Exception as error:  # noqa: BLE001 - raised by take(), to the code that asked for the items
            self._failure = error if self._failure is None else self._failure

    async def _park(self) -> None:
        room = anyio.Event()
        self._parked.append(room)
        try:
            await room.wait()
        except BaseException:
            if room in self._parked:
                self._parked.remove(room)
            else:
                self._more_hands()
            raise

    async def _pull(self) -> Item:
        if self._source is not None:
            try:
                return next(self._source)
            except StopIteration:
                raise StopAsyncIteration from None
        assert self._async_source is not None
        async with self._pulling:
            if self._exhausted:
                raise StopAsyncIteration
            try:
                return await anext(self._async_source)
            except StopAsyncIteration:
                self._exhausted = True
                raise

    async def _run(self, item: Item) -> None:
        guard = None if self._nets is None else self._nets()
        task: Task[T] = Task(self._block, self._fn, (item,), self.name, guard, None)
        task._attach()
        task._context = contextvars.copy_context()
        context, coroutine = task._begin()
        self.coroutines[task] = coroutine
        self._delivery.begin(item, task)
        try:
            await in_context(context, coroutine, self._more_hands)
        finally:
            del self.coroutines[task]
            self.finished += 1
            try:
                raise_mistake(task)
                if not self._closed:
                    self._delivery.finish(item, task)
            finally:
                self._delivery.wake()
                del self, task, coroutine
