"""Running one function on many items with bounded memory: what ``s.map`` and its kin are made of.

A few workers take the items one after the other, so that an item costs no task of the event loop
and nothing grows with their number. Every item is a task all the same: it has its own context
variables (a copy of those with which the map was made), safety nets and result, which a
:class:`~gogoscope.scopes.delivery.Delivery` hands on. Where the items come from is a
:class:`~gogoscope.scopes.source.Source`, which may have a task of the event loop for itself.

One worker begins. A worker whose item suspends calls one more, up to the limit, so that items which
never suspend need only one or two. A worker that finds no item to run is parked. Only one that was
parked, or two that are new, are on their way at a time: they call others when they have an item.

To yield to others is cheaper than to wait and be woken. So a worker that ran items, and has no room
for more, yields to a consumer that is on its way; and as long as results come within a turn, the
consumer yields to the workers, and those that are parked stay so.

asyncio's own cancellation of a worker concerns the item that it runs, whose result it becomes, and
this worker: it ends, and another takes its place.

``_working`` counts the workers that have not ended, ``_stepping`` tells that the task of the source
has not. ``_parked`` are the workers that wait for an item; those that are new are coming, too.
``_soon`` tells that results come within a turn. ``_closed`` tells that nobody wants results any
more, ``_unwanted`` that the consumer said so, ``_cut`` that something outside of the map cancels
it; ``_ending`` are the items that run on then. ``_failure`` is what the source of the items raised.
``finished`` counts the items that have ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar, cast

from gogoscope._core.callables import callable_name
from gogoscope._core.cancellation import (
    cancelled_by_scope,
    checkpoint,
    says_cancelled,
    split_cancellation,
    without_echo,
)
from gogoscope._core.context import current
from gogoscope._core.errors import is_a, raise_again
from gogoscope._core.event_loop import EventLoop, running
from gogoscope._core.interrupts import uninterrupted, uninterrupted_methods
from gogoscope._core.launches import Launch, Launched
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.block import Block
from gogoscope.scopes.delivery import AtTheEnd, Delivery
from gogoscope.scopes.outcome import let_interrupt_happen, mistake_of, raise_mistake
from gogoscope.scopes.pipeline import SafetyNets
from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.source import NOTHING, Container, Source, SourceFrame, Stepped, lie_ready
from gogoscope.scopes.stage import ENDED, steps
from gogoscope.scopes.task import Task
from gogoscope.scopes.waiters import Waiters

Item = TypeVar("Item")
T = TypeVar("T")

DEFAULT_LIMIT = 100
ITEMS_PER_TURN = 64
MOST_COMING = 2


@uninterrupted_methods
class Workers(Generic[Item, T]):
    """The workers that run a function on items, for one consumer.

    :param block: the scope that the workers end with
    :param fn: the function
    :param items: what it is called with, one by one
    :param limit: how many items may be out: running, or finished and not delivered
    :param nets: what each item runs in, ``None`` for nothing
    """

    def __init__(
        self,
        block: Block,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item] | AsyncIterable[Item],
        limit: int,
        nets: SafetyNets | None,
    ) -> None:
        self.name = callable_name(fn)
        self.finished = 0
        self.frame = SourceFrame(block, block._slots)
        self._block = block
        self._fn = fn
        self._items = items
        self._nets = nets
        self._limit = limit
        self._context = copy_context()
        self.delivery: Delivery[Item, T] = Delivery(limit)
        self._source: Source[Item] | None = None
        self._loop: EventLoop | None = None
        self._handles: dict[Launch, Callable[[], object]] = {}
        self._working = 0
        self._stepping = self._soon = False
        self._parked = Waiters()
        self._ending: set[Task[T]] = set()
        self._closed = self._unwanted = self._cut = False
        self._failure: Exception | None = None

    @property
    def started(self) -> bool:
        """Whether items were taken, or are about to be."""
        return self._source is not None

    @property
    def running(self) -> list[Task[T]]:
        """The items that run now."""
        return [t for t in (*self.delivery.tasks, *self._ending) if t._result is None]

    def start(self, delivery: type[Delivery[Item, T]]) -> None:
        """Begin to take items.

        :param delivery: how their results are handed on
        :raises ScopeClosedError: outside the scope's block
        """
        self._block._check_open()
        self.delivery = delivery(self._limit)
        if self._block._cancelling or self._closed:
            return
        works = self._block._works
        works.offer(self)
        try:
            self._loop = running()
            self._parked.begin_in(self._loop)
            self.delivery.consumers.begin_in(self._loop)
            if lie_ready(self._items):
                self._source = Container(cast("Iterable[Item]", self._items), self.delivery)
                self._add_worker()
            else:
                source = Stepped(self._items, self.delivery, self.go_on)
                self._source = source
                self._stepping = True
                name = f"source of {self.name}"
                self._launch(self._step(source), name, self._source_lost, self._context.copy())
            self._items = ()
        except BaseException:
            works.taken(self)
            works.ended(self)
            raise

    def give_up(self) -> None:
        """Cancel what runs: its only consumer does not want the rest."""
        self._unwanted = True
        self._close()

    def forget(self) -> None:
        """Close it, as nothing can take any more; soon, if the loop does not run here.

        Garbage is collected in whichever thread happens to need memory.
        """
        if self._loop is None or (self._idle and not self.delivery.tasks):
            return
        if self._loop.is_here():
            self.give_up()
        else:
            self._loop.call_from_anywhere(self.give_up)

    def _close(self) -> None:
        """Cancel what runs. Errors that were not delivered are then unhandled."""
        self._closed = True
        tasks = self.delivery.tasks
        self._cut = self._cut or bool(tasks) or not self._idle
        self._block._works.taken(self)
        self._report_failure()
        self._ending.update(task for task in tasks if task._result is None)
        self.delivery.clear()
        for task in tasks:
            task._note_cancel("its results were not wanted any more")
            task._detach(abandoned=True)
        self._stop()

    def _stop(self) -> None:
        """Cancel the workers, and the task of the source."""
        if not self._idle:
            for handle in self._handles:
                handle.cancel()

    def _launched(self) -> list[Launched]:
        """Return the workers and the task of the source."""
        return list(self._handles.items())

    @property
    def _idle(self) -> bool:
        return not (self._working or self._stepping)

    async def next(self) -> Task[T] | None:
        """Wait for the next task, as none can be taken now; return ``None`` after the last.

        :raises Exception: what taking an item from their source raised
        """
        delivery = self.delivery
        while not self._idle:
            if self._soon:
                await delivery.consumers.yield_turn()
            else:
                self.go_on()
                await delivery.change()
            if (task := delivery.take()) is not None:
                return task
            self._soon = False
        await self._end()
        return None

    async def take_all(self) -> list[Ok[T] | Err]:
        """Wait until every item has been run; return the results, in the order of the items."""
        delivery = self.delivery
        assert isinstance(delivery, AtTheEnd)
        while not self._idle:
            await delivery.change()
        await self._end()
        taken = delivery.collected
        delivery.clear()
        await let_interrupt_happen(*(one for one in taken if isinstance(one, Task)))
        return [one if isinstance(one, Ok) else one._result_for_reader() for one in taken]

    async def _end(self) -> None:
        """Raise what kept the source from being run to its end."""
        failure, self._failure = self._failure, None
        if failure is not None:
            self.give_up()
            raise failure
        source = self._source
        if self._cut or source is None or not source.complete or source.any:
            if self._unwanted:
                return
            await checkpoint()  # code that is cancelled with the scope must not see an error
            raise TaskCancelled(self._block._why_cancelled())
        self._block._works.taken(self)

    def _report_failure(self) -> None:
        """Hand an error of the source, which no consumer will get, to the scope."""
        failure, self._failure = self._failure, None
        if failure is not None:
            self._block._watch(Err(failure, None))  # dropped at once

    def go_on(self) -> None:
        """Call one more worker, if there is an item for it and none is on its way."""
        source = self._source
        if source is None or self._closed or self._cut or self._block._cancelling:
            return
        source.go_on()
        if not source.any:
            return
        if self._parked.waiting:
            if not (self._parked.coming or self._soon):
                self._parked.call()
        elif self._parked.coming < MOST_COMING and self._working < self._limit:
            self._add_worker()

    def _add_worker(self) -> None:
        self._working += 1
        self._parked.coming += 1
        self._launch(self._work(), f"map {self.name}", self._worker_never_came)

    def _launch(
        self,
        coroutine: Coroutine[Any, Any, None],
        name: str,
        ended: Callable[[], object],
        context: Context | None = None,
    ) -> None:
        try:
            group = self._block._check_open()
            handle = group.create_task(coroutine, name=name, context=context)
        except BaseException:
            coroutine.close()
            self._cut = True
            ended()
            raise
        self._handles[handle] = ended

    @uninterrupted
    async def _step(self, source: Stepped[Item]) -> None:
        """Step the source to its end: what its own task of the event loop runs."""
        current.set(self.frame)
        try:
            if self._closed or self._block._cancelling:
                await source.abandon()
            else:
                await source.run()
        except BaseException as raised:  # noqa: BLE001 - it is kept, or goes on
            if not self._keeps(raised):
                raise_again(without_echo(raised))
        finally:
            self._source_ended()
            del self, source

    def _keeps(self, raised: BaseException) -> bool:
        """Keep an error of the source for the consumer; return ``False`` for what is none."""
        if says_cancelled(raised):
            if cancelled_by_scope():
                self._cut = True
                return is_a(raised, Exception)
            self._failure = self._stray()
            self._failure.__cause__ = raised
            return True
        rest = split_cancellation(raised)[1]
        if is_a(rest, Exception):
            self._failure = rest
            return True
        self._cut = True
        return False

    def _stray(self) -> TaskCancelled:
        what = f"the source of {self.name!r}"
        return TaskCancelled(f"{what} ended with a cancellation nobody asked for")

    def _source_lost(self) -> None:
        """Note that asyncio itself cancelled the task of the source before its first step."""
        self._failure = self._stray()
        self._source_ended()

    def _source_ended(self) -> None:
        self._stepping = False
        self._ended()

    @uninterrupted
    async def _work(self) -> None:
        """Run items, one after the other: what a worker's task of the event loop runs."""
        self._parked.coming -= 1
        try:
            await self._take_turns()
        except Exception as error:  # noqa: BLE001 - of a container; raised to the consumer
            self._failure = error
            self._cut = True
        except BaseException as raised:
            if not says_cancelled(raised) or cancelled_by_scope():
                self._cut = True
                raise
        finally:
            self._worker_ended()
            del self  # an error of a task keeps the frames that awaited it

    def _worker_never_came(self) -> None:
        self._parked.coming -= 1
        self._worker_ended()

    def _worker_ended(self) -> None:
        self._working -= 1
        self.go_on()
        self._ended()

    def _ended(self) -> None:
        source = self._source
        if self._closed:
            self._report_failure()
        if self._idle:
            self.delivery.consumers.call_all()
            self._block._works.map_ended(self)
        elif self._cut or (source is not None and source.exhausted and not source.any):
            self._parked.call_all()

    async def _take_turns(self) -> None:
        """Run items until there are no more, or asyncio's own cancellation hit this worker."""
        source, delivery, block = self._source, self.delivery, self._block
        assert source is not None
        stage, cancellations = block._runner.stage(), block._runner.counter()
        item: Any = None
        awaited: object = None
        task: Task[T] | None = None
        ran = 0
        try:
            while not (self._closed or self._cut or block._cancelling):
                item = NOTHING if ran == ITEMS_PER_TURN else source.take()
                if item is NOTHING:
                    if source.exhausted:
                        return
                    self._soon = delivery.consumers.coming > 0 and (self._soon or ran > 0)
                    if ran == ITEMS_PER_TURN or (ran and self._soon):
                        await delivery.consumers.turn()
                    else:
                        await self._parked.wait()
                    ran = 0
                    continue
                task = self._task(item)
                place = delivery.begin(item, task)
                try:
                    assert task._context is not None
                    awaited = task._context.run(stage.send, task)
                    if awaited is not ENDED:
                        self._soon = self._soon and delivery.consumers.coming > 0
                        self.go_on()
                        await steps(stage, task, awaited)
                finally:
                    self._finish(place, task)
                    item = task = None
                if cancellations():
                    return
                ran += 1
        finally:
            del self, source, delivery, block, item, task, awaited, stage, cancellations

    def _task(self, item: Item) -> Task[T]:
        """Return what runs the function on an item."""
        guard = None if self._nets is None else self._nets.guard()
        task: Task[T] = Task(self._block, self._fn, (item,), self.name, guard, None)
        task._awaiters = 1  # the consumer
        task._context = self._context.copy()
        return task

    def _finish(self, place: int, task: Task[T]) -> None:
        self.finished += 1
        if type(task._result) is not Ok and mistake_of(task) is not None:
            # All items are: it is the failure of the map.
            self.delivery.drop(task)
            raise_mistake(task)
        if self._closed:
            self._ending.discard(task)
        else:
            self.delivery.finish(place, task)
        if self._stepping and self._source is not None:
            self._source.go_on()
