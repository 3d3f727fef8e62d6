"""Tasks and their results."""

from __future__ import annotations

import inspect
import sys
import time
import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from gogoscope._core.callables import NotAwaitableError, callable_name
from gogoscope._core.cancellation import (
    cancellation_requested,
    cancelled_natively,
    checkpoint,
    end_what_never_began,
    never_began,
    split_cancellation,
)
from gogoscope._core.context import current, lent_to
from gogoscope._core.errors import annotate, forget_own_frames
from gogoscope._core.slots import Slots
from gogoscope.events import TaskFailed, TaskStarted, TaskStopped, TaskSucceeded, subscribers
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.results import Err, Ok

if TYPE_CHECKING:
    from anyio import TaskHandle
    from anyio.abc import TaskGroup

    from gogoscope._core.background import Home
    from gogoscope._core.slots import Slot
    from gogoscope.events import Event
    from gogoscope.scopes.block import Lifetime
    from gogoscope.scopes.pipeline import Pipeline

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Task(Generic[T_co]):
    """A function that runs in a scope; ``await`` it for its result.

    ``err, value = await task`` never raises what the function raised. It may be awaited any number
    of times, by any number of tasks; all get the same result. Awaiting a finished task is no
    checkpoint. When the last code that awaits a task is cancelled, so is the task.
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_awaiters",
        "_cancel_reason",
        "_children",
        "_ended",
        "_fn",
        "_interrupted",
        "_looked_at",
        "_name",
        "_pipeline",
        "_result",
        "_scope",
        "_was_cancelled",
        "began",
        "cancel_requested",
        "follows",
        "handle",
        "on_error",
        "slot",
        "unseen",
        "watcher",
    )

    def __init__(
        self,
        scope: Lifetime,
        fn: Callable[..., Awaitable[T_co]],
        args: tuple[Any, ...],
        name: str | None,
        pipeline: Pipeline | None,
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        self._scope = scope
        self._fn: Callable[..., Awaitable[T_co]] | None = fn
        self._args = args
        self._name = name
        self._pipeline = pipeline
        self._result: Ok[T_co] | Err | None = None
        self._awaiters = 0
        self.cancel_requested = False
        self._cancel_reason: str | None = None
        self._children: set[Home] | None = None
        self._ended: anyio.Event | None = None
        self._interrupted = False
        self.handle: TaskHandle[None] | None = None
        self._looked_at = False
        self._was_cancelled = False
        self.began: float | None = None
        self.follows: Task[Any] | None = None
        self.on_error = on_error
        self.slot: Slot | None = None
        self.unseen = False
        self.watcher: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Task {self.name!r} {self.state}>"

    @property
    def name(self) -> str:
        """The name given, else that of the function."""
        return self._name if self._name is not None else callable_name(self._fn)

    @property
    def scope(self) -> Lifetime:
        """The scope that the task runs in."""
        return self._scope

    @property
    def outer(self) -> Lifetime:
        """The frame around the task's function: the body of its scope."""
        return self._scope

    home = scope

    @property
    def bounded_by(self) -> Slots | None:
        """The slots that the task needs one of to run."""
        return self._scope.slots

    @property
    def children(self) -> set[Home]:
        """The scopes whose blocks are open inside the task's function."""
        if self._children is None:
            self._children = set()
        return self._children

    @property
    def interrupted(self) -> bool:
        """Whether it was ended by what is no result, a ``KeyboardInterrupt`` for example."""
        return self._interrupted

    @property
    def done(self) -> bool:
        """Whether the task has a result."""
        return self._result is not None

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``succeeded``, ``failed`` or ``cancelled``, for people."""
        if self._result is None:
            return "waiting" if self.began is None else "running"
        if self._result.error is None:
            return "succeeded"
        return "cancelled" if self._was_cancelled else "failed"

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the task: its result is ``Err(TaskCancelled(reason))`` when it has ended.

        A function that has not started yet never will. Does nothing to a finished task.
        """
        if self.note_cancel(reason):
            self.stop()

    def note_cancel(self, reason: str | None) -> bool:
        """Note why the task is about to be cancelled; ``False`` if that is of no use any more."""
        if self._result is not None or self.cancel_requested:
            return False
        self.cancel_requested = True
        self._cancel_reason = reason
        return True

    def start(self, group: TaskGroup) -> None:
        """Run the task in a task group from the next checkpoint on."""
        coroutine = self.run()
        try:
            self.handle = group.create_task(coroutine, name=self.name)
        except BaseException:
            coroutine.close()  # there is no event loop here: this is another thread
            raise

    def stop(self) -> None:
        """Cancel the task's function, whatever for."""
        if self.handle is not None:
            self.handle.cancel()

    def end_unless_begun(self) -> None:
        """End the task as cancelled if its function's first step was never taken."""
        if self._result is None and self.handle is not None and never_began(self.handle):
            self._never_run()

    async def wait(self) -> None:
        """Wait until the task has ended.

        Unlike awaiting the task itself, this does not look at its error, and a cancellation of
        this call does not cancel the task.
        """
        if self._result is None:
            self.refuse_circle()
            if self.began is None and cancelled_natively():
                await end_what_never_began([self])
            async with lent_to(self._scope.slots):
                await self._end_of_it().wait()

    def __await__(self) -> Generator[Any, Any, Ok[T_co] | Err]:
        if self._result is None:
            self.refuse_circle()
            self.attach()
            try:
                direct = self.began is not None or not cancelled_natively()
                if direct and self._scope.slots is None:
                    yield from self._end_of_it().wait().__await__()
                else:
                    yield from self.wait().__await__()
            except BaseException:
                self.detach(abandoned=True)
                raise
            self.detach(abandoned=False)
        return (yield from self._look().__await__()) if self._interrupted else self.look()

    def refuse_circle(self) -> None:
        """Refuse to wait for the task inside its own function.

        :raises RuntimeError: there
        """
        waiter = current.get()
        while waiter is not None and not isinstance(waiter, Task):
            waiter = waiter.outer
        if waiter is not None and (waiter is self or waiter is self.follows) and waiter.runs_now():
            if waiter is not self and not self._awaiters:
                self.cancel("it waits for itself")
            raise RuntimeError(f"task {self.name!r} waits for itself, which would never end")

    def runs_now(self) -> bool:
        """Whether this is called from inside the task's function, not from a task that it began."""
        coroutine = None if self.handle is None else self.handle.coro
        return isinstance(coroutine, types.CoroutineType) and coroutine.cr_running

    def refuse_wrong_function(self) -> None:
        """Refuse a function that gave no awaitable.

        :raises NotAwaitableError: if this finished task has one
        """
        assert self._result is not None
        if isinstance(self._result.error, NotAwaitableError):
            self.look()

    def attach(self) -> None:
        """Count one more who will look at the result."""
        self._awaiters += 1

    def detach(self, *, abandoned: bool) -> None:
        """Count one less; if it was the last, and was cancelled, nobody needs the task any more."""
        self._awaiters -= 1
        if not abandoned or self._awaiters:
            return
        result = self._result
        if result is None:
            self.cancel("everything that awaited the task was cancelled")
        elif result.error is not None and not (
            self._looked_at or self._was_cancelled or self.unseen
        ):
            self._scope.unlooked(self, result.error)

    def look(self) -> Ok[T_co] | Err:
        """Return the result of a finished task, as somebody who looks at it."""
        result = self._result
        assert result is not None
        if result.error is not None:
            self._looked_at = True
            if self.unseen:
                self._scope.unseen_errors.seen(self)
            if isinstance(result.error, NotAwaitableError):
                raise result.error
        return result

    async def _look(self) -> Ok[T_co] | Err:
        await let_interrupt_happen(self)
        return self.look()

    async def run(self) -> None:
        """Call the function and keep its result; what the scope's task group runs."""
        scope = self._scope
        current.set(self)
        try:
            if self.cancel_requested or scope.cancelling:
                self._never_run()
                return
            self.began = time.monotonic()
            if scope.on_event is not None or subscribers:
                self._tell_started()
            if self._pipeline is None:
                self._settle(Ok(None, await self.call()))
            else:
                self._settle(Ok(None, await self._pipeline(self)))
        except Exception as error:  # noqa: BLE001 - every error of the function is a value
            if isinstance(error, TaskCancelled) and cancellation_requested():
                self._settle_cancelled()  # it unwrapped a task that was cancelled as it is itself
            else:
                self._settle(Err(error, None))
        except BaseException as raised:
            cancellation, rest = split_cancellation(raised)
            if isinstance(rest, Exception):
                self._settle(Err(rest, None))
            elif rest is None and not (self.cancel_requested or cancellation_requested()):
                stray = TaskCancelled("the function ended with a cancellation nobody asked for")
                stray.__cause__ = cancellation
                self._settle(Err(stray, None))
            else:
                self._interrupted = rest is not None
                self._settle_cancelled()
                raise
        finally:
            del self, scope

    def call(self) -> Awaitable[T_co]:
        """Call the function once.

        :raises NotAwaitableError: if it gives no awaitable
        """
        assert self._fn is not None
        awaitable = self._fn(*self._args)
        if type(awaitable) is types.CoroutineType or inspect.isawaitable(awaitable):
            return awaitable
        raise NotAwaitableError(
            f"{callable_name(self._fn)} returned {awaitable!r}, which cannot be awaited; "
            "run a function that is not async with s.thread(fn, *args)"
        )

    def end_cancelled(self, reason: str | None) -> None:
        """Return the task the result of one that was cancelled."""
        self._was_cancelled = True
        self._end(Err(TaskCancelled(reason), None))

    def _end(self, result: Ok[Any] | Err) -> None:
        self._name = self.name
        self._result = result
        self._fn = self._pipeline = self._children = None
        self._args = ()
        if self._ended is not None:
            self._ended.set()

    def _end_of_it(self) -> anyio.Event:
        if self._ended is None:
            self._ended = anyio.Event()
        return self._ended

    def _settle(self, result: Ok[Any] | Err) -> None:
        self._end(result)
        scope = self._scope
        error = result.error
        try:
            if error is not None:
                forget_own_frames(error, sys._getframe(1))  # that of run()
                annotate(error, f"in task {self._name!r} of scope {scope.name!r}")
            if scope.on_event is not None or subscribers:
                self._tell_ended(error)
        finally:
            scope.settled(self, error, looked_at=self._awaiters > 0)
            if self.watcher is not None:
                self.watcher()

    def _never_run(self) -> None:
        if self._pipeline is not None:
            self._pipeline.never_run()
        self._settle_cancelled()

    def _settle_cancelled(self) -> None:
        reason = self._cancel_reason if self.cancel_requested else self._scope.why_cancelled()
        self.end_cancelled(reason)
        if self._scope.observed:
            self._tell(TaskStopped(self._scope.name, self.name, self._age(), reason))
        self._scope.settled(self, None, looked_at=True)
        if self.watcher is not None:
            self.watcher()

    def _tell_started(self) -> None:
        self._tell(TaskStarted(self._scope.name, self.name))

    def _tell_ended(self, error: Exception | None) -> None:
        if error is None:
            self._tell(TaskSucceeded(self._scope.name, self.name, self._age()))
        else:
            self._tell(TaskFailed(self._scope.name, self.name, self._age(), error))

    def _tell(self, event: Event) -> None:
        self._scope.emit(event)

    def _age(self) -> float:
        return 0.0 if self.began is None else time.monotonic() - self.began


async def let_interrupt_happen(*tasks: Task[Any]) -> None:
    """Let an interrupt that ended one of the tasks have its chance to cancel the caller, too."""
    if any(task.interrupted for task in tasks):
        await checkpoint()
