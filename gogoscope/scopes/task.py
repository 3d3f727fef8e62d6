"""Tasks: a function that runs in a scope, and its outcome."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gogoscope._core.arguments import check_reason
from gogoscope._core.background import Home
from gogoscope._core.callables import callable_name
from gogoscope._core.cancellation import (
    cancellation_requested,
    never_began,
    says_stopping,
    split_cancellation,
)
from gogoscope._core.context import Frame, current
from gogoscope._core.errors import annotate, forget_own_frames
from gogoscope._core.hints import explains, show_as
from gogoscope._core.slots import Slot, Slots
from gogoscope._core.stopping import REASON
from gogoscope.events import (
    OnError,
    TaskFailed,
    TaskStarted,
    TaskStopped,
    TaskSucceeded,
)
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.outcome import Outcome, Parent
from gogoscope.scopes.results import Err, Ok

if TYPE_CHECKING:
    from anyio import TaskHandle
    from anyio.abc import TaskGroup

T_co = TypeVar("T_co", covariant=True)


# Its methods are a task's, also in what Python says of them.
show_as("Task", Outcome)


class Guard(Protocol):
    """What surrounds one run of a task: its safety nets."""

    async def __call__(self, task: Task[Any], /) -> Any:
        """Run the function of a task and return its value, or raise its error."""
        ...

    def never_run(self) -> None:
        """Note that the task ends without its function being called."""
        ...


@explains(
    attributes=dict.fromkeys(
        ("error", "unwrap", "unwrap_or", "value"), "await it first: result = await s.task(fn)"
    ),
    __iter__="cannot be unpacked or looped over; await it: err, value = await s.task(fn)",
    __getitem__="has no parts; await it: result = await s.task(fn)",
)
class Task(Outcome[T_co]):
    """A function that runs in a scope; ``await`` it for its result.

    ``err, value = await task`` never raises what the function raised. It may be awaited any number
    of times, by any number of tasks; all get the same result. Awaiting a finished task is no
    checkpoint. When the last code that awaits a task is cancelled, so is the task.
    """

    __slots__ = (
        "_args",
        "_cancel_reason",
        "_cancel_requested",
        "_children",
        "_fn",
        "_guard",
        "_handle",
        "_name",
        "_slot",
    )

    def __init__(
        self,
        parent: Parent,
        fn: Callable[..., Awaitable[T_co]] | None,
        args: tuple[Any, ...],
        name: str | None,
        guard: Guard | None,
        on_error: OnError | None,
    ) -> None:
        super().__init__(parent, on_error)
        self._fn = fn
        self._args = args
        self._name = callable_name(fn) if name is None else name
        self._guard = guard
        self._cancel_requested = False
        self._cancel_reason: str | None = None
        self._children: set[Frame] | None = None
        self._handle: TaskHandle[None] | None = None
        self._slot: Slot | None = None

    def __repr__(self) -> str:
        return f"<Task {self.name!r} {self.state}>"

    @property
    def name(self) -> str:
        """The name given, else that of the function."""
        return self._name

    @property
    def scope(self) -> Parent:
        """The scope that the task runs in."""
        return self._parent

    @property
    def _outer(self) -> Frame:
        return self._parent

    @property
    def _home(self) -> Home:
        return self._parent._home

    @property
    def _bounded_by(self) -> Slots | None:
        return self._parent._slots

    @property
    def _inside(self) -> set[Frame]:
        if self._children is None:
            self._children = set()
        return self._children

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the task: its result is ``Err(TaskCancelled(reason))`` when it has ended.

        A function that has not started yet never will. Does nothing to a finished task.

        :raises TypeError: if the reason is no text
        """
        check_reason(reason)
        if self._note_cancel(reason):
            self._stop()

    def _note_cancel(self, reason: str | None) -> bool:
        """Note why the task is about to be cancelled; ``False`` if that is of no use any more."""
        if self._result is not None or self._cancel_requested:
            return False
        self._cancel_requested = True
        self._cancel_reason = reason
        return True

    def _start(self, group: TaskGroup) -> None:
        """Run the task in a task group from the next checkpoint on."""
        coroutine = self._run()
        try:
            self._handle = group.create_task(coroutine, name=self._name)
        except BaseException:
            coroutine.close()  # there is no event loop here: this is another thread
            raise

    def _stop(self) -> None:
        """Cancel the task's function, whatever for."""
        if self._handle is not None:
            self._handle.cancel()

    def _end_unless_begun(self) -> None:
        """End the task as cancelled if its function's first step was never taken."""
        if self._result is None and self._handle is not None and never_began(self._handle):
            self._never_run()

    def _refuse_circle(self) -> None:
        waiter = current.get()
        while waiter is not None and not isinstance(waiter, Task):
            waiter = waiter._outer
        if waiter is not None and self._comes_from(waiter):
            if waiter is not self and not self._awaiters:
                self.cancel("it waits for itself")
            raise RuntimeError(f"task {self.name!r} waits for itself, which would never end")

    def _comes_from(self, task: Task[Any]) -> bool:
        """Return whether this is called inside a task's function, and the result is that one's."""
        return task is self and self._runs_now()

    def _runs_now(self) -> bool:
        """Return whether this is called from inside the task's function."""
        coroutine = None if self._handle is None else self._handle.coro
        return isinstance(coroutine, types.CoroutineType) and coroutine.cr_running

    async def _run(self) -> None:
        """Call the function and keep its result; what the scope's task group runs."""
        parent = self._parent
        current.set(self)
        try:
            if self._cancel_requested or parent._cancelling:
                self._never_run()
                return
            self._began = time.monotonic()
            home = parent._home
            if home.observed:
                home.emit(TaskStarted(home.name, self.name))
            if self._guard is None:
                self._settle(Ok(None, await self._call()))
            else:
                self._settle(Ok(None, await self._guard(self)))
        except Exception as error:  # noqa: BLE001 - every error of the function is a value
            if says_stopping(error):
                self._settle_cancelled(error)
            elif isinstance(error, TaskCancelled) and cancellation_requested():
                self._settle_cancelled()  # it unwrapped a task that was cancelled as it is itself
            else:
                self._settle(Err(error, None))
        except BaseException as raised:
            cancellation, rest = split_cancellation(raised)
            if isinstance(rest, Exception):
                self._settle(Err(rest, None))
            elif rest is None and not (self._cancel_requested or cancellation_requested()):
                stray = TaskCancelled("the function ended with a cancellation nobody asked for")
                stray.__cause__ = cancellation
                self._settle(Err(stray, None))
            else:
                self._interrupted = rest is not None
                self._settle_cancelled()
                raise
        finally:
            del self, parent

    def _call(self) -> Awaitable[T_co]:
        """Call the function once."""
        assert self._fn is not None
        return self._fn(*self._args)

    def _end(self, result: Ok[Any] | Err) -> None:
        self._fn = self._guard = self._children = None
        self._args = ()
        self._result = result
        if self._ended is not None:
            self._ended.set()

    def _settle(self, result: Ok[Any] | Err) -> None:
        self._end(result)
        parent = self._parent
        error = result.error
        try:
            if error is not None:
                forget_own_frames(error, sys._getframe(1))
                annotate(error, f"in task {self._name!r} of scope {parent.name!r}")
            if parent._home.observed:
                self._tell_ended(error)
        finally:
            parent._note_settled(self, error, awaited=self._awaiters > 0)
            if self._watcher is not None:
                self._watcher()

    def _never_run(self) -> None:
        if self._guard is not None:
            self._guard.never_run()
        self._settle_cancelled()

    def _settle_cancelled(self, error: Exception | None = None) -> None:
        """End the task as cancelled; ``error`` is what says so already."""
        parent = self._parent
        reason = self._cancel_reason if self._cancel_requested else parent._why_cancelled()
        if error is not None:
            reason = REASON
        self._end_cancelled(reason, error)
        home = parent._home
        if home.observed:
            home.emit(TaskStopped(home.name, self.name, self._age(), reason))
        parent._note_settled(self, None, awaited=True)
        if self._watcher is not None:
            self._watcher()

    def _tell_ended(self, error: Exception | None) -> None:
        home = self._parent._home
        if error is None:
            home.emit(TaskSucceeded(home.name, self.name, self._age()))
        else:
            home.emit(TaskFailed(home.name, self.name, self._age(), error))

    def _age(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began
