"""How the function of a task is run: step by step, in its own context, inside whatever hosts it.

The host is a worker, or the code that awaits the task. It asks for the first step
(:meth:`Running._first_step`); most functions that need no more are done then. Else it awaits the
others (:meth:`Running._go_on`). What the function returns or raises becomes the result. What is no
result goes on to the host: a cancellation that concerns it, and an interrupt.

``_context`` is the context of the function, ``_coroutine`` what runs it, while it runs. ``_slot``
is the slot that the task holds. ``_depth`` counts the tasks that it runs inside of, each inside its
awaiter. Then asyncio's own cancellation of the awaiter is thrown into the function, where it is
told from others by its count: ``_before`` is the count when the function began, ``_count`` the one
when it suspended last, and ``_natively`` the cancellation, if that was what it went on with.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from gogoscope._core.background import Home
from gogoscope._core.cancellation import (
    cancelled_by_scope,
    says_cancelled,
    says_stopping,
    split_cancellation,
)
from gogoscope._core.context import Frame, current
from gogoscope._core.errors import annotate, forget_own_frames, is_a, leads_to
from gogoscope._core.slots import Slot, Slots
from gogoscope._core.stopping import REASON
from gogoscope.events import TaskFailed, TaskStarted, TaskStopped, TaskSucceeded, subscribers
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.outcome import Outcome
from gogoscope.scopes.results import Err, Ok, ok
from gogoscope.scopes.runner import ENDED, NATIVELY, Guard

if TYPE_CHECKING:
    from anyio import TaskHandle

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

NOTES_OF_TASKS = 2
"""How many tasks an error names: the one that it came from, and the next that it went through."""


class Running(Outcome[T_co]):
    """An outcome that comes from running a function."""

    __slots__ = (
        "_args",
        "_before",
        "_cancel_reason",
        "_cancel_requested",
        "_children",
        "_context",
        "_coroutine",
        "_count",
        "_depth",
        "_fn",
        "_guard",
        "_handle",
        "_natively",
        "_slot",
    )

    _fn: Callable[..., Awaitable[T_co]] | None
    _args: tuple[Any, ...]
    _guard: Guard | None
    _context: Context | None
    _coroutine: Coroutine[Any, Any, Any] | None
    _slot: Slot | None
    _depth: int
    _before: int
    _count: int
    _handle: TaskHandle[None] | None
    _natively: BaseException | None
    _children: set[Frame] | None
    _cancel_requested: bool
    _cancel_reason: str | None

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

    def _first_step(self) -> object:
        """Run the function to where it suspends first.

        :returns: what it awaits there, or ``ENDED``
        :raises BaseException: what concerns the host
        """
        parent, context = self._parent, self._context
        if self._cancel_requested or parent._cancelling:
            self._never_run()
            return ENDED
        assert context is not None
        assert self._fn is not None
        run, call = context.run, None
        run(current.set, self)
        self._began = time.monotonic()
        try:
            if parent._home.on_event is not None or subscribers:
                run(self._tell_started)
            try:
                call = self._guard(self) if self._guard else run(self._fn, *self._args)
            except StopIteration as error:  # it would look like a value
                raise RuntimeError("the function raised StopIteration") from error
            if type(call) is not types.CoroutineType or (
                parent._runner.takes_interrupts and not self._guard
            ):
                call = interruptible(call)
            self._coroutine = call
            return run(call.send, None)
        except StopIteration as stop:
            self._succeed(stop.value)
            return ENDED
        except BaseException as raised:  # noqa: BLE001 - judged by what it is
            goes_on = context.run(self._judge, raised, sys._getframe())
        try:
            if goes_on is not None:
                raise goes_on
        finally:
            del self, parent, context, run, call, goes_on  # the error may keep this frame
        return ENDED

    @types.coroutine
    def _go_on(self, awaited: object, *, inside: bool = False) -> Generator[Any, Any, None]:
        """Run the function from where it suspended first to its end.

        :param awaited: what it awaits there
        :param inside: whether it runs inside its awaiter
        :raises BaseException: what concerns the host
        """
        context, coroutine, runner = self._context, self._coroutine, self._parent._runner
        assert context is not None
        assert coroutine is not None
        run, value, goes_on = context.run, None, None
        step: Callable[[Any], Any] | None = None
        try:
            while True:
                if inside:
                    self._count = runner.own_cancellations()
                try:
                    value = yield awaited
                except BaseException as thrown:  # noqa: BLE001 - thrown into the function
                    if inside:
                        self._note_thrown(thrown)
                    step, value = coroutine.throw, thrown
                else:
                    step = coroutine.send
                try:
                    awaited = run(step, value)
                except StopIteration as stop:
                    self._succeed(stop.value)
                    return
                except BaseException as raised:  # noqa: BLE001 - judged by what it is
                    goes_on = run(self._judge, raised, sys._getframe())
                    break
            if goes_on is not None:
                raise goes_on
        finally:
            del self, context, coroutine, run, step, value, awaited, goes_on, runner

    def _call(self) -> Awaitable[T_co]:
        """Call the function once."""
        assert self._fn is not None
        call = self._fn(*self._args)
        return interruptible(call) if self._parent._runner.takes_interrupts else call

    def _note_thrown(self, raised: BaseException) -> None:
        """Note whether asyncio's own cancellation of the awaiter is thrown into the function."""
        grew = self._parent._runner.own_cancellations() > self._count
        self._natively = raised if grew else None

    def _judge(self, raised: BaseException, host: types.FrameType) -> BaseException | None:
        """Make the result of what the function raised; return what goes on to its host."""
        rest = raised if says_cancelled(raised) else split_cancellation(raised)[1]
        if is_a(rest, Exception):
            goes_on = self._natively if self._hides_cancellation(rest) else None
            if says_stopping(rest):
                self._settle_cancelled(rest)
            elif self._is_being_cancelled() and says_cancelled(rest):
                self._settle_cancelled()  # it unwrapped a task that was cancelled as it is itself
            else:
                self._settle_failed(rest, host)
            return goes_on
        if says_cancelled(raised) and not self._is_being_cancelled():
            if not self._depth and self._parent._runner.own_cancellations():
                self._cancel_requested = True
                self._cancel_reason = NATIVELY
                self._settle_cancelled()
                return None
            stray = TaskCancelled("the function ended with a cancellation nobody asked for")
            stray.__cause__ = raised
            self._settle_failed(stray, host)
            return None
        self._interrupted = not says_cancelled(raised)
        self._settle_cancelled()
        return raised

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

    def _succeed(self, value: Any) -> None:
        """End with a value."""
        parent = self._parent
        if parent._home.on_event is not None or subscribers or self._watcher is not None:
            assert self._context is not None
            self._context.run(self._conclude, ok((None, value)), None)
            return
        # What _conclude does when nobody is to be told, without its calls: most tasks end here.
        self._fn = self._guard = self._children = self._context = self._coroutine = None
        self._handle = None
        self._args = ()
        self._result = ok((None, value))
        if self._ended is not None:
            self._ended.set()
        works = parent._works
        works.discard(self)
        if works.awaited:
            works.wake_if_idle()

    def _fail(self, error: Exception) -> None:
        """End with an error before the function was called."""
        if self._guard is not None:
            self._guard.never_run()
        self._settle_failed(error, None)

    def _settle_failed(self, error: Exception, host: types.FrameType | None) -> None:
        """End with an error.

        :param host: the frame that ran the function
        """
        if host is not None:
            forget_own_frames(error, host)
        annotate(error, f"in task {self.name!r} of scope {self._parent.name!r}", NOTES_OF_TASKS)
        failed = Err(error, None)
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

    def _never_run(self) -> None:
        """End as cancelled; the function is never called."""
        if self._guard is not None:
            self._guard.never_run()
        self._settle_cancelled()

    def _settle_cancelled(self, error: Exception | None = None) -> None:
        """End as cancelled; ``error`` is what says so already."""
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

    def _end(self, result: Ok[Any] | Err) -> None:
        self._fn = self._guard = self._children = self._context = self._coroutine = None
        self._handle = None
        self._args = ()
        self._result = result
        if self._ended is not None:
            self._ended.set()

    def _tell_started(self) -> None:
        home = self._parent._home
        home.emit(TaskStarted(home.name, self.name))

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
