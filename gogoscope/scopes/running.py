"""What becomes of the function of a task: what it returns or raises is made the result.

What is no result goes on to what the function runs in (:mod:`gogoscope.scopes.stage`): a
cancellation that concerns it, and an interrupt.

``_context`` is the context of the function, ``_coroutine`` what runs it, while it runs. ``_began``
is when it suspended first, or when it began, if somebody listens: nobody else can ask for the age
of what never suspends, and the clock costs as much as many a function. ``_slot``
is the slot that the task holds. ``_depth`` counts the tasks that it runs inside of, each inside its
awaiter. Then asyncio's own cancellation of the awaiter is thrown into the function, where it is
told from others by its count: ``_before`` is the count when the function suspended first, and
``_natively`` the cancellation, if that was what it went on with when it had suspended last.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from time import monotonic
from typing import Any, TypeVar

from gogoscope._core.background import Home
from gogoscope._core.cancellation import (
    cancelled_by_scope,
    says_cancelled,
    says_stopping,
    split_cancellation,
    without_echo,
)
from gogoscope._core.context import Frame
from gogoscope._core.errors import annotate, forget_own_frames, is_a, leads_to
from gogoscope._core.interrupts import interruptible
from gogoscope._core.launches import Launch
from gogoscope._core.slots import Slot, Slots
from gogoscope._core.stopping import REASON
from gogoscope.events import (
    Event,
    TaskFailed,
    TaskStarted,
    TaskStopped,
    TaskSucceeded,
    new_id,
    subscribers,
)
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.outcome import Outcome, Parent
from gogoscope.scopes.results import NO_VALUE, Err, Ok, tuple_new
from gogoscope.scopes.runner import NATIVELY
from gogoscope.scopes.stage import Guard

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

NOTES_OF_TASKS = 2
"""How many tasks an error names: the one that it came from, and the next that it went through."""


class Running(Outcome[T_co]):
    """An outcome that comes from running a function."""

    _outer: Parent
    _fn: Callable[..., Awaitable[T_co]] | None
    _args: tuple[Any, ...]
    _guard: Guard | None
    _context: Context | None
    _coroutine: Coroutine[Any, Any, Any] | None
    _began: float | None
    _handle: Launch | None
    _slot: Slot | None
    _children: set[Frame] | None
    _depth: int
    _numbered: int
    _cancel_requested: bool
    _cancel_reason: str | None = None
    _natively: BaseException | None = None
    _before: int = 0

    @property
    def _home(self) -> Home:
        return self._parent._home

    @property
    def _number(self) -> int:
        """Its number in events, from when it is first needed."""
        if not self._numbered:
            self._numbered = new_id()
        return self._numbered

    @property
    def _bounded_by(self) -> Slots | None:
        return self._parent._slots

    @property
    def _inside(self) -> set[Frame]:
        if self._children is None:
            self._children = set()
        return self._children

    def _call(self) -> Coroutine[Any, Any, T_co]:
        """Call the function once."""
        assert self._fn is not None
        call: Any = self._fn(*self._args)
        plain = isinstance(call, types.CoroutineType) and not self._parent._runner.takes_interrupts
        found: Coroutine[Any, Any, T_co] = call if plain else interruptible(call)
        return found

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
            if not self._depth and self._parent._runner.counter()():
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
        return without_echo(raised)

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
        return native and self._parent._runner.counter()() > self._before

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
        result = NO_VALUE if value is None else tuple_new(Ok, (None, value))
        parent = self._parent
        if parent._home.on_event is not None or subscribers or self._watcher is not None:
            self._conclude(result, None)
            return
        # What _conclude does when nobody is to be told, without its calls: most tasks end here.
        self._fn = self._guard = self._children = self._context = self._coroutine = None
        self._handle = None
        self._args = ()
        self._result = result
        if self._ended is not None:
            self._ended.set()
        works = parent._works
        works.running.discard(self)
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
            self._tell(TaskStopped, self._age(), reason)
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

    def _tell(self, event: Callable[..., Event], *details: object) -> None:
        """Tell those who listen what happened to the task."""
        home = self._parent._home
        home.emit(event(home.name, self.name, *details, id=self._number, parent=home.id))

    def _tell_started(self) -> None:
        self._began = monotonic()  # its end tells how long it ran
        if self._guard is None or not self._guard.lines_up:
            self._tell(TaskStarted)

    def _tell_ended(self, error: Exception | None) -> None:
        if error is None:
            self._tell(TaskSucceeded, self._age())
        else:
            self._tell(TaskFailed, self._age(), error)

    def _age(self) -> float:
        return 0.0 if self._began is None else monotonic() - self._began
