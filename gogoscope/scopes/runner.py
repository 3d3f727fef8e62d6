"""How the tasks of a block are run: inside their awaiter, by workers, or each on its own.

A task costs little if it needs no task of the event loop. So

1. A task that has not begun, and that only its awaiter knows, runs inside the awaiter, step by
   step, in its own context. Cancelling the awaiter or the scope is then all that could cancel it.
   Its awaiter must stand inside the block's cancel scope with no shield between, in the body or in
   work of the block, and must hold no slot, which it would have to lend. What is called there need
   not be queued for that.
2. All others wait in one queue for a worker, a task of the event loop. A worker whose task never
   suspended takes the next one, and one worker stays to wait for more. One whose task suspended
   ends with it: nothing that is kept for the current task of the event loop is ever shared by two
   tasks that suspended.
3. ``inline=False`` gives each task a worker of its own, for functions that register the current
   task of the event loop.

``queue`` are the tasks that have not begun; those that were cancelled meanwhile are skipped.
``_coming`` are the workers that were started and have not looked at the queue yet. ``_parked``
wakes the worker that waits for more. ``served`` tells that one is coming, or was woken: while it is
true, nothing in the queue is forgotten. ``_closed`` tells that nothing more comes. ``_unbroken``
counts the tasks that ran inside their awaiters since a worker took one, as others need their turn.
``spare`` is a stage for the next of them.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from gogoscope._core.cancellation import cancelled_by_scope, checkpoint, says_cancelled
from gogoscope._core.context import Frame, get_current
from gogoscope._core.event_loop import HOST, EventLoop, mark
from gogoscope._core.interrupts import uninterrupted
from gogoscope._core.launches import Group, Launch, Launched
from gogoscope.scopes.stage import ENDED, Around, Inside, Performed, Stage, stage, steps

T = TypeVar("T")

TURN = 128
"""How many tasks that never suspend run in one turn of the event loop."""
SPREAD = 16
"""How many further workers a worker asks for whose first task suspended: most others may, too."""
NATIVELY = "asyncio's own Task.cancel() was called"
"""Why a task is cancelled whose worker is."""
LINKS_CALLERS = sys.version_info[:2] == (3, 12)
"""Whether closing a generator links its frame to those that stand around.

Errors of tasks keep the frame of their stage. The event loop closes it, not the block: else they
would keep the block, too.
"""
DEEPEST = 40
"""How many tasks may run inside each other, before the interpreter's stack is in danger."""


class Owner(Around, Protocol):
    """The scope of a task, as its runner knows it."""

    _in_body: bool
    """Whether its body runs."""

    def _stops(self, frame: Frame | None, /) -> bool:
        """Return whether stopping its work ends what runs in a frame."""
        ...


class Runs(Performed, Protocol):
    """A task, as its runner knows it."""

    @property
    def _parent(self) -> Owner:
        """The scope that it belongs to."""
        ...

    _queued: bool
    """Whether it waits in the queue."""
    _awaiters: int
    """How many await it now."""
    _handle: Launch | None
    """What cancels its worker, while it has one."""
    _cancel_requested: bool
    """Whether it was cancelled."""

    @property
    def name(self) -> str:
        """What it is called, for people."""
        ...

    def cancel(self, reason: str | None = None) -> None:
        """Cancel it; it ends at once if it has not begun."""
        ...

    def _fail(self, error: Exception) -> None:
        """End with an error, as nothing can run it."""
        ...


class Runner:
    """Runs the tasks of one block.

    :param group: the block's task group, entered; its cancel scope is the innermost
    :param inline: whether tasks may run inside their awaiters, and share workers
    """

    __slots__ = (
        "_admits",
        "_closed",
        "_coming",
        "_group",
        "_inline",
        "_loop",
        "_parked",
        "_scope",
        "_unbroken",
        "arrivals",
        "counter",
        "queue",
        "served",
        "spare",
        "takes_interrupts",
    )

    def __init__(self, group: Group, loop: EventLoop, *, inline: bool) -> None:
        self._group = group
        self._loop = loop
        self.takes_interrupts = loop.takes_interrupts
        self.counter = loop.counter
        self.arrivals = loop.arrivals
        self._inline = inline
        self._scope = mark(loop)
        self._admits = inline and self._scope is not None
        self.queue: deque[Runs] = deque()
        self.served = self._closed = False
        self._coming: set[Worker] = set()
        self._parked: Awaitable[None] | None = None
        self._unbroken = 0
        self.spare: Stage | None = None

    def stage(self) -> Stage:
        """Return a new stage, which runs nothing yet."""
        new: Any = stage(takes_interrupts=self.takes_interrupts)  # a generator, and a coroutine
        new.send(None)
        return cast("Stage", new)

    def serve(self, task: Runs) -> None:
        """See to it that a worker takes a task that was put in the queue."""
        if not self._inline:
            self._add_worker(task.name, task)
        elif self._parked is None:
            self._add_worker("worker")
        else:
            self._unpark()

    def admits(self, task: Runs) -> bool:
        """Return whether a task that only its awaiter knows may run inside of it, here and now."""
        waiter = frame = get_current()
        guard = task._guard
        if not self._admits or waiter is None:
            return False
        depth = waiter._depth
        if depth >= DEEPEST or not (guard is None or guard.runs_inside):
            return False
        while frame is not None:
            if frame._slot is not None:
                return False  # it is lent while the awaiter waits
            frame = frame._outer
        self._unbroken += 1
        if self._unbroken > TURN:
            self._unbroken = 0
            return False
        where = self._loop.reaches(self._scope)
        around = task._parent
        in_body = where == HOST and around._in_body
        if not in_body and not (where and around._stops(waiter)):
            return False
        task._depth = depth + 1
        return True

    def begin_inside(self, task: Runs) -> Any:
        """Run a task inside its awaiter, to where it suspends first.

        :returns: what lets it go on to its end, a generator and a coroutine; ``None`` if it has
            ended
        :raises BaseException: what concerns the awaiter
        """
        assert task._context is not None
        stage, self.spare = self.spare or self.stage(), None
        task._awaiters = 1  # whoever cancels that one cancels the task
        try:
            awaited = task._context.run(stage.send, task)
            if awaited is not ENDED:
                return steps(stage, task, awaited, Inside(self))
            self.spare = stage
            return None
        finally:
            del task, stage  # since Python 3.12 an error keeps the frames around it

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call a function in the next turn of the event loop, if it can do that."""
        self._loop.call_soon(call)

    def call_here(self, call: Callable[[], object]) -> None:
        """Call a function in the event loop: now if that runs here, else soon."""
        if self._loop.is_here():
            call()
        else:
            self._loop.call_from_anywhere(call)

    def reaches(self) -> int:
        """Return whether the block's cancel scope is certain to reach the current code, and where.

        :returns: what :meth:`EventLoop.reaches` does
        """
        return 0 if self._scope is None else self._loop.reaches(self._scope)

    def drop(self) -> None:
        """End the tasks that have not begun."""
        while (task := self.next()) is not None:
            task._never_run()

    def next(self) -> Runs | None:
        """Take the first task that was not cancelled from the queue."""
        queue = self.queue
        while queue:
            task = queue.popleft()
            if task._queued:
                task._queued = False
                return task
        return None

    async def park(self) -> bool:
        """Wait for more to do; return whether there may be."""
        if self._parked is not None or self._closed or not self._inline:
            return False
        parked = self._parked = self._loop.waiter()
        try:
            await parked
        finally:
            if self._parked is parked:
                self._parked = None
            self.served = bool(self._coming)
        return not self._closed

    def _unpark(self) -> None:
        if self._parked is not None:
            parked, self._parked = self._parked, None
            self.served = True
            self._loop.wake(parked)

    def close(self) -> None:
        """Let the worker end that waits for more."""
        self._closed = True
        spare, self.spare = self.spare, None
        if spare is not None and LINKS_CALLERS and not self._loop.call_soon(spare.close):
            self._loop.call_from_anywhere(spare.close)
        self._unpark()

    def spread(self, most: int) -> None:
        """Start workers for what waits in the queue; fail the queue if that is impossible."""
        queue = self.queue
        while queue and not queue[0]._queued:
            queue.popleft()
        if not self._inline:
            return
        try:
            for _ in range(min(most, len(queue) - len(self._coming))):
                self.serve(queue[0])
        except Exception as error:  # noqa: BLE001 - nobody else could tell it to who awaits the tasks
            while (task := self.next()) is not None:
                task._fail(error)

    @uninterrupted
    def _add_worker(self, name: str, own: Runs | None = None) -> None:
        worker = Worker(self, own)
        coroutine = worker.run()
        try:
            # One that waits for more would keep the context of the caller.
            context = self._loop.own_context()
            worker.handle = self._group.create_task(coroutine, name=name, context=context)
        except BaseException:
            coroutine.close()
            raise
        self._coming.add(worker)
        self.served = self._inline

    def arrived(self, worker: Worker) -> None:
        """Note that a worker looks at the queue."""
        self._coming.discard(worker)
        self.served = self._inline and bool(self._coming)
        self._unbroken = 0

    def _launched(self) -> list[Launched]:
        """Return the workers that have not begun, or never will."""
        return [(w.handle, partial(self._lost, w)) for w in self._coming if w.handle is not None]

    def _lost(self, worker: Worker) -> None:
        """Note that asyncio itself cancelled a worker before its first step."""
        self.arrived(worker)
        if worker.own is not None:
            worker.own.cancel(NATIVELY)
        self.spread(1)


class Worker:
    """A task of the event loop that runs tasks until one of them suspends.

    :param own: the only task that it runs, if it is to run no other
    """

    __slots__ = ("_runner", "handle", "own")

    def __init__(self, runner: Runner, own: Runs | None) -> None:
        self._runner = runner
        self.own = own
        self.handle: Launch | None = None

    @uninterrupted
    async def run(self) -> None:
        """Run tasks from the queue."""
        runner, handle = self._runner, self.handle
        runner.arrived(self)
        queue = runner.queue if self.own is None else deque((self.own,))
        cancellations, left = runner.counter(), TURN
        stage = runner.stage()
        task = None
        del self  # many may wait at a time, each with what is here
        try:
            while queue or await runner.park():
                if not queue or not (task := queue.popleft())._queued:
                    task = None
                    continue  # it was cancelled, or ran inside its awaiter
                task._queued = False
                task._handle = handle
                assert task._context is not None
                awaited = task._context.run(stage.send, task)
                if awaited is not ENDED:
                    if runner.queue:  # more and more begin in each turn of the event loop
                        runner.spread(SPREAD if left == TURN else 2)
                    del cancellations
                    await steps(stage, task, awaited)
                    return
                if task._cancel_requested or cancellations():
                    return
                task = None  # the wait for the next one would keep it, and its error untold
                left -= 1
                if left == 0:
                    left = TURN
                    await checkpoint()
        except BaseException as raised:
            if _goes_on(raised):
                raise
        finally:
            if runner.queue:
                runner.spread(1)
            del runner, queue, handle, task, stage


def _goes_on(raised: BaseException) -> bool:
    """Return whether what ends a worker concerns others than its task, which has its result."""
    return not says_cancelled(raised) or cancelled_by_scope()


class _Probe:
    """Tells the reference count that an object sees when it is awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[int, None, None]:
        yield sys.getrefcount(self)


def _count_of_unshared() -> int:
    """Return the reference count of what only its awaiter knows, or -1 if it tells nothing."""

    async def awaits_it() -> None:
        await _Probe()

    async def keeps_it() -> None:
        probe = _Probe()
        await probe

    counts = []
    for function in (awaits_it, keeps_it):
        coroutine = function()
        counts.append(coroutine.send(None))
        coroutine.close()
    return counts[0] if counts[0] < counts[1] else -1


def _counts_references() -> bool:
    """Return whether this interpreter is one whose reference counts are known to tell."""
    with_lock = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and sys.version_info < (3, 14) and with_lock()


# Besides the awaiter, the queue and the works of the block refer to a task.
UNSHARED = _count_of_unshared() + 2 if _counts_references() else -1
"""The reference count, in its ``__await__``, of a task in the queue that only its awaiter knows."""
