"""A thread of its own for calls that block, one after the other.

A visit to it costs about half of one to anyio's pool of threads, which looks for a thread at each
call and makes the caller yield twice on the way. How it works:

- ``_calls`` is the queue that wakes the thread: a call, a sign that something urgent waits, or
  ``None`` to end. ``_urgent`` are the calls that go first; each has put one sign into the queue.
- A call is taken exactly once: by the thread, which then makes it, or by its caller when that is
  cancelled before, so that it is never made (``_Call.take``). Once the thread has taken it, the
  caller waits for its end, shielded: nobody is left in doubt whether a write happened.
- ``ended`` and ``waiter`` belong to the event loop of the caller. The thread asks the loop to set
  the one and to wake the other.
- The thread holds no reference to its ``WorkerThread``: when nobody has that any more, a
  finalizer ends the thread.
"""

from __future__ import annotations

import contextvars
import functools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from gogoscope.persistence import EventLoop, nothing_done, running

Result = TypeVar("Result")


class ThreadGoneError(Exception):
    """The thread is to end, or belongs to another event loop."""


class WorkerThread:
    """Runs the blocking calls of the current event loop's tasks, one after the other.

    Urgent calls go before the others that wait. The thread ends with :meth:`end`, or when nobody
    has this object any more.

    :param name: the thread's name
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[_Next] = queue.SimpleQueue()
        self._urgent: deque[_Call[Any]] = deque()
        self._loop = running()
        threading.Thread(
            target=_serve, args=(self._calls, self._urgent, self._loop), name=name, daemon=True
        ).start()
        self._end = weakref.finalize(self, self._calls.put, None)
        self._end.atexit = False  # others may use the thread until the end of the process

    def end(self, last: Callable[[], object] | None = None) -> None:
        """Let the thread end after the calls that wait, and after ``last`` if there is one."""
        if self._end.alive:
            if last is not None:
                self._calls.put(_Call(last))
            self._end()

    async def run(self, fn: Callable[[], Result], *, urgent: bool = False) -> Result:
        """Call a function in the thread; return its result, or raise its error.

        The function sees the context variables of the caller. If the caller is cancelled before the
        function's turn, it is not called; after that the caller waits for its end. A function that
        raises has done nothing.

        :raises ThreadGoneError: if the thread is to end, or belongs to another event loop
        """
        loop = self._loop
        if not loop.is_here():
            raise ThreadGoneError
        if loop.may_be_cancelled():
            with nothing_done:
                await checkpoint_if_cancelled()
        if not self._end.alive:
            raise ThreadGoneError
        call = _Call(fn)
        call.waiter = loop.waiter()
        if urgent:
            self._urgent.append(call)
            self._calls.put("urgent")
        else:
            self._calls.put(call)
        try:
            await call.waiter
        except BaseException:
            if not call.take():
                with anyio.CancelScope(shield=True):
                    while not call.ended:
                        call.waiter = loop.waiter()
                        await call.waiter
                if call.error is None:
                    raise
            with nothing_done:
                raise
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # or it would refer to itself, by its traceback
        return cast("Result", call.result)


class _Call(Generic[Result]):
    __slots__ = ("_context", "_fn", "_taken", "ended", "error", "result", "waiter")

    def __init__(self, fn: Callable[[], Result]) -> None:
        self._fn = fn
        self._context = contextvars.copy_context()
        self._taken = threading.Lock()
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.waiter: Any = None
        self.ended = False

    def take(self) -> bool:
        """Return whether this is the first one to take the call: the thread, or its caller."""
        return self._taken.acquire(blocking=False)

    def make(self) -> None:
        try:
            self.result = self._context.run(self._fn)
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            self.error = error
        finally:
            del self  # or the error, whose traceback has this frame, would refer to itself

    def end(self, loop: EventLoop) -> None:
        """Wake the caller; for the event loop to call."""
        self.ended = True
        if self.waiter is not None:
            loop.wake(self.waiter)


_Next = _Call[Any] | Literal["urgent"] | None
"""What the thread is to do: make a call, make the urgent ones that still wait, or end."""


def _serve(calls: queue.SimpleQueue[_Next], urgent: deque[_Call[Any]], loop: EventLoop) -> None:
    while _serve_next(calls, urgent, loop):
        pass


def _serve_next(
    calls: queue.SimpleQueue[_Next], urgent: deque[_Call[Any]], loop: EventLoop
) -> bool:
    call = calls.get()
    while urgent:
        _make(urgent.popleft(), loop)
    if call is None:
        return False
    if call != "urgent":
        _make(call, loop)
    del call  # as above
    return True


def _make(call: _Call[Any], loop: EventLoop) -> None:
    if call.take():
        call.make()
    # If the event loop has ended, nobody waits any more.
    loop.call_from_anywhere(functools.partial(call.end, loop))
