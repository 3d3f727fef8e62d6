"""Tasks: a function that runs in a scope, and its outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from sys import getrefcount
from types import CoroutineType, FunctionType
from typing import Any, TypeVar
from weakref import getweakrefcount

from gogoscope._core.arguments import check_reason
from gogoscope._core.callables import callable_name
from gogoscope._core.context import current
from gogoscope._core.hints import as_one_class, explains
from gogoscope._core.interrupts import uninterrupted
from gogoscope._core.launches import Launch
from gogoscope.events import OnError
from gogoscope.scopes.outcome import Outcome, Parent
from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.runner import UNSHARED
from gogoscope.scopes.running import Running
from gogoscope.scopes.stage import Guard

T_co = TypeVar("T_co", covariant=True)


@as_one_class
@explains(
    attributes=dict.fromkeys(
        ("error", "unwrap", "unwrap_or", "value"), "await it first: result = await s.task(fn)"
    ),
    __iter__="cannot be unpacked or looped over; await it: err, value = await s.task(fn)",
    __getitem__="has no parts; await it: result = await s.task(fn)",
)
class Task(Running[T_co]):
    """A function that runs in a scope; ``await`` it for its result.

    ``err, value = await task`` never raises what the function raised. It may be awaited any number
    of times, by any number of tasks; all get the same result. Awaiting a finished task is no
    checkpoint. When the last code that awaits a task is cancelled, so is the task.
    """

    _began: float | None
    _context: Context | None
    _coroutine: Coroutine[Any, Any, Any] | None
    _handle: Launch | None

    def __init__(
        self,
        parent: Parent,
        fn: Callable[..., Awaitable[T_co]] | None,
        args: tuple[Any, ...],
        name: str | None,
        guard: Guard | None,
        on_error: OnError | None,
    ) -> None:
        # What the classes above keep is set here, too: every call counts for each task. A default
        # of the class is for what few tasks need. CPython keeps all that these objects begin with
        # in place, without a dictionary; it stores what has a default more slowly, and what only
        # some of them have, in a dictionary of their own. ``__slots__`` would be slower to fill.
        self._parent = self._outer = parent
        self._on_error = on_error
        self._fn = fn
        self._args = args
        self._guard = guard
        if name is None:
            name = fn.__qualname__ if type(fn) is FunctionType else callable_name(fn)
        self._name: str = name
        self._result = self._began = self._ended = self._watcher = None
        self._context = self._coroutine = self._handle = self._slot = self._children = None
        self._awaiters = self._depth = self._numbered = 0
        self._cancel_requested = self._queued = False

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

    @uninterrupted
    def cancel(self, reason: str | None = None) -> None:
        """Cancel the task: its result is ``Err(TaskCancelled(reason))`` when it has ended.

        A function that has not started yet never will. Does nothing to a finished task.

        :raises TypeError: if the reason is no text
        :raises RuntimeError: in another thread or event loop
        """
        check_reason(reason)
        if self._result is None:
            self._parent._check_here()
            if self._note_cancel(reason):
                self._stop()

    def _note_cancel(self, reason: str | None) -> bool:
        """Note why the task is about to be cancelled; ``False`` if that is of no use any more."""
        if self._result is not None or self._cancel_requested:
            return False
        self._cancel_requested = True
        self._cancel_reason = reason
        return True

    def _stop(self) -> None:
        """Cancel the task's function, whatever for; inside its awaiter, that one's end does."""
        if self._queued:
            self._queued = False
            self._never_run()
        elif self._handle is not None:
            self._handle.cancel()

    @uninterrupted
    def __await__(self) -> Generator[Any, Any, Ok[T_co] | Err]:
        # The references are counted here, where the limit was measured.
        if self._queued and getrefcount(self) == UNSHARED and not getweakrefcount(self):
            runner = self._parent._runner
            if runner.queue[0] is self and runner.admits(self):
                runner.queue.popleft()
                self._queued = False
                try:
                    rest = runner.begin_inside(self)
                    if rest is not None:
                        yield from rest
                finally:
                    self._awaiters = 0
        if type(self._result) is Ok:
            return self._result
        try:
            return (yield from Outcome.__await__(self))
        finally:
            del self  # since Python 3.12 an error keeps the frames that awaited it

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
        coroutine = self._coroutine
        return isinstance(coroutine, CoroutineType) and coroutine.cr_running
