"""A call from a thread into the loop: what the thread waits for, and what it does meanwhile.

The loop runs a coroutine of ours; a function of the user's always runs in the thread that called
us, where its database connections, its request and its Ctrl-C are. So the coroutine hands such a
function back (:func:`in_thread_of_caller`), and the thread, which waits for news anyway, runs it.

Invariants:

- ``_news`` has what the loop tells: functions to run, at most one :data:`ENTERED`, and in the end
  one :data:`ENDED`, whatever happens, after which comes nothing. An exception may come between
  taking news and heeding it, so ``ended`` is set before the end is told.
- A function that was handed back is begun by whoever takes its ticket: the thread, or the coroutine
  to withdraw it. Once begun, the coroutine waits for its end, whatever cancels it.
- If an exception comes while the thread waits, or a function raises one that ends the program, the
  call is cancelled. The thread waits for the end of that, within a bound, before the exception goes
  on: so what the call held is released.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio import to_thread
from attrs import frozen

from gogoscope._core.cancellation import checkpoint_if_cancelled
from gogoscope._core.context import current
from gogoscope._core.errors import Origin, forget_traceback
from gogoscope.blocking.loop_thread import LoopThread
from gogoscope.cache.single_flight import aboard
from gogoscope.exceptions import ScopeClosedError

T = TypeVar("T")

STOP_SECONDS = 15.0
"""How long a thread that was interrupted waits for its call to end."""

LOOP_ENDED = "the event loop of gogoscope.blocking has ended"

ENTERED = object()
ENDED = object()

_call: ContextVar[Call[Any] | None] = ContextVar("call", default=None)


@frozen(eq=False)
class _Raised:
    """An error of a user's function, and where the function raised it."""

    error: BaseException
    origin: Origin


class Call(Generic[T]):
    """Something that a thread has the loop do.

    :param thread: the loop
    :param work: does it; its first step runs in the loop
    """

    def __init__(self, thread: LoopThread, work: Callable[[], Awaitable[T]]) -> None:
        self._thread = thread
        self._work = work
        self._news: SimpleQueue[object] = SimpleQueue()
        self._scope: anyio.CancelScope | None = None
        self._stopped = False
        self.begun = False
        self.ended = False
        """Whether it has ended; set in the loop."""
        self._value: Any = None
        self._error: BaseException | None = None
        self._own: _Raised | None = None

    def value(self) -> T:
        """Do it, and return what came of it; in the thread of the caller.

        :raises Exception: what it raised
        """
        try:
            self.begin()
            self.wait()
        except BaseException:
            self.abandon()  # it may have come before the thread waited
            raise
        return self.result()

    def begin(self) -> None:
        """Let the loop begin."""
        self._thread.start(self)

    def wait(self) -> bool:
        """Wait until it is entered, or has ended; run what it hands back meanwhile.

        Whoever is interrupted in it has to :meth:`abandon` the call.

        :returns: whether it has ended
        """
        while not self.ended:
            news = self._news.get()
            if news is ENTERED:
                return False
            if isinstance(news, _Function):
                news.run()
        return True

    def result(self) -> T:
        """Return what came of it, once it has ended.

        :raises Exception: what it raised, with the frames of the user's function alone
        """
        error = self._error
        if error is None:
            return cast("T", self._value)
        own = self._own
        if own is not None and own.error is error:
            own.origin.restore(error)
        else:
            forget_traceback(error)
        try:
            raise error
        finally:
            del self, error, own

    def abandon(self) -> None:
        """Cancel it, and wait for its end, within a bound."""
        self.cancel()
        until = time.monotonic() + STOP_SECONDS
        while not self.ended and (left := until - time.monotonic()) > 0:
            try:
                news = self._news.get(timeout=left)
            except Empty:
                return
            if isinstance(news, _Function):
                news.withdraw()

    def cancel(self) -> None:
        """Cancel it, from any thread; does not wait."""
        self._stopped = True
        self._thread.stop(self)

    def tell(self, news: object) -> None:
        """Tell the thread something; in the loop."""
        self._news.put(news)

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call a function in the loop."""
        self._thread.call_soon(call)

    def ran(self, error: BaseException) -> None:
        """Note with which frames a function of the user's has failed."""
        self._own = _Raised(error, Origin(error, of_user=True))

    # In the loop.

    async def run(self) -> None:
        """Do it; raises nothing."""
        current.set(None)  # the caller may run in a scope of another loop
        _call.set(self)
        try:
            with anyio.CancelScope() as self._scope:
                if self._stopped:
                    self._scope.cancel()
                self._value = await self._work()
            if self._scope.cancelled_caught:
                self._error = ScopeClosedError("the blocking client was closed meanwhile")
        except anyio.get_cancelled_exc_class():  # not by us: asyncio ends the loop
            self._error = ScopeClosedError(LOOP_ENDED)
        except BaseException as error:  # noqa: BLE001 - the thread raises it
            self._error = error
        finally:
            self._end()

    def stop(self) -> None:
        """Cancel it, in the loop."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    def over(self) -> None:
        """Note that the loop has ended."""
        self._error = ScopeClosedError(LOOP_ENDED)
        self._end()

    def _end(self) -> None:
        self.ended = True
        self.tell(ENDED)


class _Function:
    """A function of the user's that its thread is to run.

    :param call: the call of that thread
    :param fn: the function
    """

    def __init__(self, call: Call[Any], fn: Callable[[], Any]) -> None:
        self._call = call
        self._fn = fn
        self._aboard = aboard.get()
        self._ticket = [True]
        self._done = anyio.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    async def outcome(self) -> Any:
        """Return what it returned; in the loop.

        :raises Exception: what it raised
        """
        self._call.tell(self)
        try:
            await self._done.wait()
        except BaseException:
            if not self.withdraw():
                with anyio.CancelScope(shield=True):
                    await self._done.wait()
            raise
        await checkpoint_if_cancelled()
        error = self._error
        try:
            if error is not None:
                raise error
        finally:
            del error
        return self._value

    def withdraw(self) -> bool:
        """Let nobody begin it any more.

        :returns: ``False`` if it has begun
        """
        try:
            return self._ticket.pop()
        except IndexError:
            return False

    def run(self) -> None:
        """Run it, unless it was withdrawn; in the thread of the caller.

        :raises BaseException: what ends the program
        """
        if not self.withdraw():
            return
        token = aboard.set(self._aboard)  # what it loads itself waits for what loads it
        try:
            self._value = self._fn()
        except Exception as error:  # noqa: BLE001 - raised by the coroutine
            self._call.ran(error)
            self._error = error
        except BaseException:
            self._call.cancel()
            raise
        finally:
            aboard.reset(token)
            self._call.call_soon(self._done.set)


async def in_thread_of_caller(fn: Callable[..., T], *args: Any) -> T:
    """Run a function in the thread that called us, or in a worker thread if none waits for it."""
    call = _call.get()
    if call is None:
        return await to_thread.run_sync(partial(fn, *args))
    return cast("T", await _Function(call, partial(fn, *args)).outcome())


async def without_caller(work: Callable[[], Awaitable[object]]) -> None:
    """Do something in the background, for which no thread waits."""
    _call.set(None)
    await work()


def call_here() -> Call[Any]:
    """Return the call that the running coroutine works for."""
    call = _call.get()
    assert call is not None
    return call
