"""Tasks: a function that runs in a scope, and its outcome."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import getweakrefcount

from gogoscope._core.arguments import check_reason
from gogoscope._core.background import Home
from gogoscope._core.callables import callable_name
from gogoscope._core.cancellation import (
    cancelled_by_scope,
    says_cancelled,
    says_stopping,
    split_cancellation,
)
from gogoscope._core.context import Frame, current, slots_around
from gogoscope._core.errors import annotate, forget_own_frames, is_a, leads_to
from gogoscope._core.hints import as_one_class, explains
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
from gogoscope.scopes.runner import UNSHARED, in_context

if TYPE_CHECKING:
    from anyio import TaskHandle

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

NOTES_OF_TASKS = 2
"""How many tasks an error names: the one that it came from, and the next that it went through."""


class Guard(Protocol):
    """What surrounds one run of a task: its safety nets."""

    runs_inside: bool
    """Whether a task that it surrounds may run inside its awaiter."""

    async def __call__(self, task: Task[Any], /) -> Any:
        """Run the function of a task and return its value, or raise its error."""
        ...

    def never_run(self) -> None:
        """Note that the task ends without its function being called."""
        ...


@as_one_class
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
        "_before",
        "_cancel_reason",
        "_cancel_requested",
        "_cancellations",
        "_children",
        "_context",
        "_coroutine",
        "_depth",
        "_fn",
        "_guard",
        "_handle",
        "_name",
        "_natively",
        "_queued",
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
        self._before = self._cancellations = 0
        self._context: Context | None = None
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._depth = 0
        self._handle: TaskHandle[None] | None = None
        self._natively: BaseException | None = None
        self._queued = False
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

    def _stop(self) -> None:
        """Cancel the task's function, whatever for; inside its awaiter, that one's end does."""
        if self._queued:
            self._queued = False
            self._never_run()
        elif self._handle is not None:
            self._handle.cancel()

    def __await__(self) -> Generator[Any, Any, Ok[T_co] | Err]:
        # The references are counted here, where the limit was measured.
        if self._queued and getrefcount(self) == UNSHARED and self._runs_inside():
            context, coroutine = self._begin()
            self._attach()
            try:
                yield from in_context(context, coroutine, None, self)
            except BaseException:
                self._detach(abandoned=True)
                raise
            self._detach(abandoned=False)
            return self._result_for_reader()
        return (yield from Outcome.__await__(self))

    def _runs_inside(self) -> bool:
        """Return whether the task, which only its awaiter knows, is to run inside of it."""
        guard, runner, waiter = self._guard, self._parent._runner, current.get()
        if getweakrefcount(self) or waiter is None or (guard and not guard.runs_inside):
            return False
        depth = waiter._depth + 1
        if slots_around() or not runner.admits(self, depth):
            return False
        runner.next()
        self._awaiters = 1  # whoever cancels that one cancels the task
        self._depth = depth
        self._before = runner.own_cancellations()
        return True

    def _note_suspended(self) -> None:
        """Note how often asyncio itself has cancelled the awaiter by now."""
        self._cancellations = self._parent._runner.own_cancellations()

    def _note_thrown(self, raised: BaseException) -> None:
        """Note whether asyncio's own cancellation of the awaiter is thrown into the function."""
        grew = self._parent._runner.own_cancellations() > self._cancellations
        self._natively = raised if grew else None

    def _begin(self) -> tuple[Context, Coroutine[Any, Any, None]]:
        """Return what runs the task, and the context to run it in."""
        context, self._context = self._context, None
        assert context is not None
        self._coroutine = self._run()
        return context, self._coroutine

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
            call = self._call() if self._guard is None else self._guard(self)
            value = await (interruptible(call) if parent._runner.takes_interrupts else call)
            self._conclude(Ok(None, value), None)
        except BaseException as raised:  # noqa: BLE001 - judged by what it is
            failed, goes_on = self._judge(raised)
            if failed is not None:
                self._settle(failed)
        else:
            goes_on = None
        finally:
            failed = None
            del parent
        try:
            if goes_on is not None:
                raise goes_on
        finally:
            del self, goes_on

    def _judge(self, raised: BaseException) -> tuple[Err | None, BaseException | None]:
        """Return the result that an exception of the function makes, and what goes on from there.

        There is no result if the task ended as cancelled. A cancellation goes on to whom it
        concerns, and so does an interrupt.
        """
        rest = raised if says_cancelled(raised) else split_cancellation(raised)[1]
        if is_a(rest, Exception):
            goes_on = self._natively if self._hides_cancellation(rest) else None
            if says_stopping(rest):
                self._settle_cancelled(rest)
            elif self._is_being_cancelled() and says_cancelled(rest):
                self._settle_cancelled()  # it unwrapped a task that was cancelled as it is itself
            else:
                return Err(rest, None), goes_on
            return None, goes_on
        if says_cancelled(raised) and not self._is_being_cancelled():
            stray = TaskCancelled("the function ended with a cancellation nobody asked for")
            stray.__cause__ = raised
            return Err(stray, None), None
        self._interrupted = not says_cancelled(raised)
        self._settle_cancelled()
        return None, raised

    def _is_being_cancelled(self) -> bool:
        """Return whether somebody cancels the task, the scope, or the awaiter that it runs in."""
        return (
            self._cancel_requested
            or self._parent._cancelling
            or cancelled_by_scope()
            or self._is_cancelled_natively()
        )

    def _is_cancelled_natively(self) -> bool:
        """Return whether asyncio itself cancels the awaiter that it runs in.

        An inner cancel scope that cancelled the awaiter has taken that back by now.
        """
        native = self._natively is not None
        return native and self._parent._runner.own_cancellations() > self._before

    def _hides_cancellation(self, error: Exception) -> bool:
        """Return whether an error took the place of asyncio's own cancellation of the awaiter.

        A ``TimeoutError`` does not: libraries of old cancel a task to raise one in it.
        """
        native = self._natively
        if native is None or is_a(error, TimeoutError) or not self._is_cancelled_natively():
            return False
        return says_cancelled(error) or leads_to(error, native)

    def _call(self) -> Awaitable[T_co]:
        """Call the function once."""
        assert self._fn is not None
        return self._fn(*self._args)

    def _fail(self, error: Exception) -> None:
        """End with an error before the function was called."""
        if self._guard is not None:
            self._guard.never_run()
        self._settle(Err(error, None))

    def _end(self, result: Ok[Any] | Err) -> None:
        self._fn = self._guard = self._children = self._context = self._coroutine = None
        self._args = ()
        self._result = result
        if self._ended is not None:
            self._ended.set()

    def _settle(self, failed: Err) -> None:
        self._mark(failed._unread, sys._getframe(1))
        self._conclude(failed, failed)

    def _conclude(self, result: Ok[Any] | Err, failed: Err | None) -> None:
        """Set the result, and tell of it.

        :param failed: the result, if it is an error of its own that nobody knows of yet
        """
        self._end(result)
        parent = self._parent
        try:
            if parent._home.observed:
                self._tell_ended(result._unread if isinstance(result, Err) else None)
        finally:
            parent._note_settled(self, failed)
            if self._watcher is not None:
                self._watcher()

    def _mark(self, error: Exception, caller: types.FrameType) -> None:
        """Write to an error where it comes from."""
        forget_own_frames(error, caller)
        note = f"in task {self._name!r} of scope {self._parent.name!r}"
        annotate(error, note, NOTES_OF_TASKS)

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
        parent._note_settled(self, None)
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


async def interruptible(awaitable: Awaitable[T]) -> T:
    """Await what a user wrote, in which a Ctrl-C may come at any time."""
    return await awaitable
