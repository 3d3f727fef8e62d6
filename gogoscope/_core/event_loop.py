"""What a block asks of its event loop beyond what anyio offers.

Together with :mod:`gogoscope._core.cancellation` this is all that knows asyncio from trio. Neither
is imported: whichever runs the calling code is loaded.

Whether a cancel scope reaches the current code, or a shield is between, neither tells in public.
So :func:`running` looks at what anyio and trio keep, and tries itself once for each of them: where
they do not keep it as expected, nothing counts as inside.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from contextvars import Context
from threading import get_ident
from typing import Any, Protocol

import anyio
import anyio.lowlevel

from gogoscope._core.asyncio_group import open_group
from gogoscope._core.cancellation import checkpoint, on_asyncio
from gogoscope._core.interrupts import noted
from gogoscope._core.launches import Group

HOST, ELSEWHERE = 1, 2
"""Where code runs that cancelling a scope reaches."""


class EventLoop(Protocol):
    """The event loop that a block was opened in."""

    takes_interrupts: bool
    """Whether a Ctrl-C may come in the middle of its code (:mod:`gogoscope._core.interrupts`)."""

    def is_here(self) -> bool:
        """Return whether this loop runs the calling code."""
        ...

    def may_be_cancelled(self) -> bool:
        """Return whether a checkpoint may raise here; telling that is cheaper than a checkpoint."""
        ...

    def call_soon(self, call: Callable[[], object]) -> bool:
        """Call a function in the next turn of the loop, which is cheaper than starting a task.

        :returns: ``False`` if the loop has no such thing
        """
        ...

    def call_from_anywhere(self, call: Callable[[], object]) -> None:
        """Call a function that raises nothing in the loop, soon, unless the loop has ended.

        A finalizer may ask for it. The garbage collector runs those in whichever thread happens to
        need memory, and in the middle of anything, so they must do no more than this.
        """
        ...

    def own_context(self) -> Context:
        """Return a context with no variables of users, for code of ours, also outside of any task.

        Outside of tasks, anyio knows by a variable alone on which event loop of two it runs.
        """
        ...

    def turn(self) -> Awaitable[None]:
        """Let other tasks run: a checkpoint, but a cheaper one."""
        ...

    def waiter(self) -> Awaitable[None]:
        """Return what one task awaits until another one wakes it; it is cheaper than an event."""
        ...

    def wake(self, waiter: Any) -> None:
        """Wake the task that awaits what :meth:`waiter` returned, or will."""
        ...

    def innermost(self) -> object:
        """Return what stands for the innermost cancel scope around the current code.

        Its task is the host of the block from now on.
        """
        ...

    def reaches(self, scope: object) -> int:
        """Return whether cancelling a scope reaches the current code: no shield is between.

        :param scope: what :meth:`innermost` returned inside of it
        :returns: 0 if not; ``HOST`` if the host runs the code, and another number elsewhere
        """
        ...

    def counter(self) -> Callable[[], int]:
        """Return what counts how often the current task was cancelled by asyncio's own means."""
        ...

    def arrivals(self) -> Callable[[], int]:
        """Return what counts how many of these cancellations its code has seen.

        The last one waits for the next ``await`` if the task was running, as it cancelled itself.
        """
        ...

    def open_group(self, on_lost: Callable[[], object]) -> Group:
        """Return a task group that goes on when a task ends as cancelled, with nobody cancelling.

        :param on_lost: called then: asyncio's own cancellation may end a task before its first step
        """
        ...


class Asyncio:
    """An asyncio event loop."""

    __slots__ = (
        "_context",
        "_current_task",
        "_host",
        "_host_state",
        "_loop",
        "_running",
        "_states",
        "_stepping",
        "_thread",
        "takes_interrupts",
    )

    def __init__(self) -> None:
        self.takes_interrupts = False
        asyncio = sys.modules["asyncio"]
        self._running: Callable[[], Any] = asyncio._get_running_loop
        self._loop = self._running()
        self._thread = get_ident()
        self._stepping = _current_tasks()
        self._current_task: Callable[[], Any] = (
            functools.partial(self._stepping.get, self._loop)
            if self._loop in self._stepping
            else asyncio.current_task
        )
        self._states: Any = getattr(sys.modules.get("anyio._backends._asyncio"), "_task_states", {})
        self._host: Any = None
        self._host_state: Any = None
        self._context = Context()
        if "sniffio" in sys.modules:
            library = sys.modules["sniffio"].current_async_library_cvar
            self._context.run(library.set, "asyncio")

    def is_here(self) -> bool:
        """Return whether this loop runs the calling code."""
        if self._loop in self._stepping and get_ident() == self._thread:
            return True
        return self._running() is self._loop

    def may_be_cancelled(self) -> bool:
        """Return whether a cancel scope that reaches this code is cancelled, as anyio has it."""
        try:
            scope = self._states[self._current_task()].cancel_scope
            while scope is not None and not scope._shield and not scope._cancel_called:
                scope = scope._parent_scope
        except (AttributeError, KeyError, TypeError):
            return True  # it keeps them in another way
        return scope is not None and bool(scope._cancel_called)

    def call_soon(self, call: Callable[[], object]) -> bool:
        """Call a function in the next turn of the loop."""
        self._loop.call_soon(call, context=self._context)
        return True

    def call_from_anywhere(self, call: Callable[[], object]) -> None:
        """Call a function in the loop, soon, unless the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, context=self._context)

    def own_context(self) -> Context:
        """Return a context that names asyncio."""
        return self._context.copy()

    @types.coroutine
    def turn(self) -> Generator[None, None, None]:
        """Yield, as asyncio's ``sleep(0)`` does."""
        yield

    def waiter(self) -> Awaitable[None]:
        """Return a future."""
        future: Awaitable[None] = self._loop.create_future()
        return future

    def wake(self, waiter: Any) -> None:
        """Set a future's result, unless its task was cancelled."""
        if not waiter.done():
            waiter.set_result(None)

    def innermost(self) -> object:
        """Return the innermost cancel scope around the current code."""
        self._host = self._current_task()
        self._host_state = self._states[self._host]
        return self._host_state.cancel_scope

    def reaches(self, scope: object) -> int:
        """Return whether cancelling a scope reaches the current code, and whose that is."""
        current_task = self._current_task
        task = current_task()
        if task is self._host:
            whose, state = HOST, self._host_state
        else:
            whose, state = ELSEWHERE, self._states.get(task)
            if state is None:
                return 0  # a task that anyio does not know
        inner = state.cancel_scope
        while inner is not scope:
            if inner is None or inner._shield:
                return 0
            inner = inner._parent_scope
        return whose

    def counter(self) -> Callable[[], int]:
        """Return what counts how often the current task was cancelled by ``Task.cancel()``."""
        task = self._current_task()
        counter: Callable[[], int] = _zero if task is None else task.cancelling
        return counter

    def arrivals(self) -> Callable[[], int]:
        """Return what counts how many cancellations by ``Task.cancel()`` its code has seen."""
        task = self._current_task()
        if not hasattr(task, "_must_cancel"):
            return self.counter()
        return lambda: task.cancelling() - task._must_cancel

    def open_group(self, on_lost: Callable[[], object]) -> Group:
        """Return a group whose tasks cost little, and that a lost task does not cancel."""
        return open_group(self._loop, self.own_context(), on_lost)


class Trio:
    """A run of trio."""

    __slots__ = ("_current_task", "_current_token", "_host", "_token", "takes_interrupts")

    def __init__(self) -> None:
        self.takes_interrupts = True
        lowlevel = sys.modules["trio"].lowlevel
        self._current_task: Callable[[], Any] = lowlevel.current_task
        self._current_token: Callable[[], Any] = lowlevel.current_trio_token
        self._token = self._current_token()
        self._host: Any = None
        while noted:
            function, protected = noted.pop()
            mark = lowlevel.enable_ki_protection if protected else lowlevel.disable_ki_protection
            mark(function)

    def is_here(self) -> bool:
        """Return whether this run of trio runs the calling code."""
        try:
            return self._current_token() is self._token
        except RuntimeError:  # nothing runs here
            return False

    def may_be_cancelled(self) -> bool:
        """Return ``True``: asking trio is a checkpoint."""
        return True

    def call_soon(self, call: Callable[[], object]) -> bool:
        """Return ``False``: trio has only what other threads use, which costs more than a task."""
        return False

    def call_from_anywhere(self, call: Callable[[], object]) -> None:
        """Call a function in the run, soon, unless it has ended."""
        with suppress(RuntimeError):
            self._token.run_sync_soon(call)

    def own_context(self) -> Context:
        """Return an empty context."""
        return Context()

    def turn(self) -> Awaitable[None]:
        """Return a checkpoint: trio has none that is cheaper."""
        return checkpoint()

    def waiter(self) -> Awaitable[None]:
        """Return an event that can be awaited."""
        return _Event()

    def wake(self, waiter: Any) -> None:
        """Set an event."""
        waiter.event.set()

    def innermost(self) -> object:
        """Return the status of the innermost cancel scope around the current code."""
        self._host = self._current_task()
        return self._host._cancel_status

    def reaches(self, scope: object) -> int:
        """Return whether cancelling a scope reaches the current code, and whose that is."""
        task = self._current_task()
        inner = task._cancel_status
        while inner is not scope:
            if inner is None or inner._scope.shield:
                return 0
            inner = inner._parent
        return HOST if task is self._host else ELSEWHERE

    def counter(self) -> Callable[[], int]:
        """Return what counts nothing: trio cancels by cancel scopes only."""
        return _zero

    def arrivals(self) -> Callable[[], int]:
        """Return what counts nothing."""
        return _zero

    def open_group(self, on_lost: Callable[[], object]) -> Group:
        """Return a task group: trio cancels by cancel scopes only."""
        return anyio.create_task_group()


class _Event:
    """An event that is awaited without a method."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = anyio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        return self.event.wait().__await__()


def _zero() -> int:
    return 0


def _current_tasks() -> dict[Any, Any]:
    """Return the current task of each asyncio event loop, or nothing.

    Up to Python 3.11, asyncio's own function that looks into it is not compiled, and the one that
    tells which loop runs asks the operating system each time.
    """
    tasks = getattr(sys.modules["asyncio"].tasks, "_current_tasks", None)
    return tasks if sys.version_info < (3, 12) and isinstance(tasks, dict) else {}


def running() -> EventLoop:
    """Return the event loop that runs the calling code."""
    return Asyncio() if on_asyncio() else Trio()


def runs_here() -> bool:
    """Return whether an event loop runs the calling code, in this thread."""
    # Another thread may be importing them.
    running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    if running_loop is not None and running_loop() is not None:
        return True
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    try:
        return lowlevel is not None and lowlevel.current_trio_token() is not None
    except RuntimeError:
        return False


def mark(loop: EventLoop) -> object | None:
    """Return what :meth:`EventLoop.reaches` takes, for the innermost cancel scope.

    :returns: ``None`` if the loop cannot tell what is inside
    """
    return loop.innermost() if _tells_shields(type(loop)) else None


@functools.cache
def _tells_shields(kind: Callable[[], EventLoop]) -> bool:
    """Return whether a kind of event loop, which runs the calling code, can tell what is inside."""
    loop = kind()
    reached = shielded = False
    try:
        with anyio.CancelScope():  # noqa: ASYNC100 - entered to be seen
            scope = loop.innermost()
            with anyio.CancelScope() as inner:  # noqa: ASYNC100 - likewise
                reached = loop.reaches(scope) != 0
                inner.shield = True
                shielded = not loop.reaches(scope)
    except (AttributeError, LookupError, TypeError):
        return False
    return reached and shielded
