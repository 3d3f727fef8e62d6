"""How the tasks of a block are run: inside their awaiter, by workers, or each on its own.

A task costs little if it needs no task of the event loop. So

1. A task that has not begun, and that only its awaiter knows, runs inside the awaiter, step by
   step, in its own context. Cancelling the awaiter or the scope is then all that could cancel it.
   Its awaiter must stand inside the block's cancel scope with no shield between, and must hold no
   slot, which it would have to lend.
2. All others wait in one queue for a worker, a task of the event loop. A worker whose task never
   suspended takes the next one. One whose task suspended ends with it: nothing that is kept for
   the current task of the event loop is ever shared by two tasks that suspended.
3. ``inline=False`` gives each task a worker of its own, for functions that register the current
   task of the event loop.

``_queue`` are the tasks that have not begun; those that were cancelled meanwhile are skipped.
``_asked`` tells that the event loop is asked to start a worker, ``_coming`` are the workers that
were started and have not looked at the queue yet: while there is either, nothing in the queue is
forgotten. ``_unbroken`` counts the tasks that ran
inside their awaiters since a worker took one, as other tasks of the event loop need their turn.
"""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gogoscope._core.cancellation import (
    cancelled_by_scope,
    checkpoint,
    never_began,
    says_cancelled,
)
from gogoscope._core.event_loop import EventLoop, mark

if TYPE_CHECKING:
    from anyio import TaskHandle
    from anyio.abc import TaskGroup

T = TypeVar("T")

TURN = 128
"""How many tasks that never suspend run in one turn of the event loop."""
DEEPEST = 40
"""How many tasks may run inside each other, before the interpreter's stack is in danger."""


class Runs(Protocol):
    """A task, as its runner knows it."""

    _queued: bool
    """Whether it waits in the queue."""
    _handle: TaskHandle[None] | None
    """What cancels its worker, while it has one."""

    @property
    def name(self) -> str:
        """What it is called, for people."""
        ...

    @property
    def _cancel_requested(self) -> bool: ...

    def _begin(self) -> tuple[Context, Coroutine[Any, Any, None]]:
        """Leave the queue; return what runs it, and the context to run it in."""
        ...

    def _never_run(self) -> None:
        """End without being run."""
        ...

    def _fail(self, error: Exception) -> None:
        """End with an error, as nothing can run it."""
        ...


class Runner:
    """Runs the tasks of one block.

    :param group: the block's task group, entered; its cancel scope is the innermost
    :param inline: whether tasks may run inside their awaiters, and share workers
    """

    __slots__ = ("_asked", "_coming", "_group", "_inline", "_loop", "_queue", "_scope", "_unbroken")

    def __init__(self, group: TaskGroup, loop: EventLoop, *, inline: bool) -> None:
        self._group = group
        self._loop = loop
        self._inline = inline
        self._scope = mark(loop)
        self._queue: deque[Runs] = deque()
        self._asked = False
        self._coming: set[Worker] = set()
        self._unbroken = 0

    def add(self, task: Runs) -> None:
        """Run a task from the next checkpoint on."""
        self._queue.append(task)
        try:
            if not self._inline:
                self._add_worker(task.name)
            elif not (self._asked or self._coming):
                self._ask_for_worker()
        except BaseException:
            self._queue.pop()
            raise

    def admits(self, task: Runs, depth: int) -> bool:
        """Return whether a task in the queue that only its awaiter knows may run inside of it.

        :param depth: how many tasks it would run inside of
        """
        if not self._inline or self._queue[0] is not task or depth > DEEPEST:
            return False
        if self._unbroken >= TURN:
            self._unbroken = 0
            return False
        self._unbroken += 1
        return self.reaches()

    def reaches(self) -> bool:
        """Return whether it is certain that cancelling the block reaches the current code."""
        return self._scope is not None and self._loop.is_inside(self._scope)

    @property
    def takes_interrupts(self) -> bool:
        """Whether a Ctrl-C is kept out of the code that runs tasks."""
        return self._loop.takes_interrupts

    def own_cancellations(self) -> int:
        """Return how often the current task was cancelled by asyncio's own means."""
        return self._loop.own_cancellations()

    def drop(self) -> None:
        """End the tasks that have not begun."""
        while (task := self.next()) is not None:
            task._never_run()

    def next(self) -> Runs | None:
        """Take the first task that was not cancelled from the queue."""
        queue = self._queue
        while queue:
            task = queue.popleft()
            if task._queued:
                task._queued = False
                return task
        return None

    def _ask_for_worker(self) -> None:
        """Start a worker, unless the queue is empty when the loop has its next turn."""
        self._asked = self._loop.call_soon(self._start_worker)
        if not self._asked:
            self._add_worker("worker")

    def _start_worker(self) -> None:
        self._asked = False
        self.spread(1)

    def spread(self, most: int) -> None:
        """Start workers for what waits in the queue; fail the queue if that is impossible."""
        queue = self._queue
        while queue and not queue[0]._queued:
            queue.popleft()
        try:
            for _ in range(min(most, len(queue) - len(self._coming))):
                self._add_worker("worker")
        except Exception as error:  # noqa: BLE001 - nobody else could tell it to who awaits the tasks
            while (task := self.next()) is not None:
                task._fail(error)

    def _add_worker(self, name: str) -> None:
        worker = Worker(self, alone=not self._inline)
        coroutine = worker.run()
        try:
            worker.handle = self._group.create_task(coroutine, name=name)
        except BaseException:
            coroutine.close()
            raise
        self._coming.add(worker)

    def arrived(self, worker: Worker) -> None:
        """Note that a worker looks at the queue."""
        self._coming.discard(worker)
        self._unbroken = 0

    def _end_unless_begun(self) -> None:
        """Forget the workers that asyncio itself cancelled before their first step."""
        for worker in list(self._coming):
            if worker.handle is not None and never_began(worker.handle):
                self._coming.discard(worker)


class Worker:
    """A task of the event loop that runs tasks until one of them suspends.

    :param alone: whether it runs one task only
    """

    __slots__ = ("_alone", "_runner", "_suspended", "handle")

    def __init__(self, runner: Runner, *, alone: bool) -> None:
        self._runner = runner
        self._alone = alone
        self._suspended = False
        self.handle: TaskHandle[None] | None = None

    async def run(self) -> None:
        """Run tasks from the queue."""
        runner = self._runner
        runner.arrived(self)
        left = TURN
        try:
            while (task := runner.next()) is not None and await self._completes(task):
                left -= 1
                if left == 0:
                    left = TURN
                    await checkpoint()
        finally:
            runner.spread(1)

    async def _completes(self, task: Runs) -> bool:
        """Run a task; return whether this worker is as good as new."""
        task._handle = self.handle
        context, coroutine = task._begin()
        try:
            await in_context(context, coroutine, self._on_suspension)
        except BaseException as raised:
            if says_cancelled(raised) and not cancelled_by_scope():
                return False  # it concerns the task, which has its result, and this worker
            raise
        finally:
            task._handle = None
        return not (self._suspended or self._alone or task._cancel_requested)

    def _on_suspension(self) -> None:
        self._suspended = True
        if not self._alone:
            self._runner.spread(2)  # which doubles the workers in each turn of the event loop


class Watcher(Protocol):
    """Watches a coroutine from suspension to suspension."""

    def _note_suspended(self) -> None:
        """Note that it suspends."""
        ...

    def _note_thrown(self, raised: BaseException) -> None:
        """Note that it goes on with an exception."""
        ...


@types.coroutine
def in_context(
    context: Context,
    coroutine: Coroutine[Any, Any, T],
    on_suspension: Callable[[], object] | None = None,
    watcher: Watcher | None = None,
) -> Generator[Any, Any, T]:
    """Await a coroutine whose steps run in a context of their own.

    :param on_suspension: called when it suspends for the first time
    :param watcher: is told each time that it suspends
    """
    run = context.run
    step: Callable[[Any], Any] = coroutine.send
    value: Any = None
    try:
        while True:
            try:
                awaited = run(step, value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if on_suspension is not None:
                on_suspension()
                on_suspension = None
            if watcher is not None:
                watcher._note_suspended()
            try:
                value = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as raised:  # noqa: BLE001 - thrown into the coroutine
                step, value = coroutine.throw, raised
                if watcher is not None:
                    watcher._note_thrown(raised)
            else:
                step = coroutine.send
    finally:
        del coroutine, run, step, value, on_suspension, watcher


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
