"""The event loop in a thread that works for all blocking clients of a process.

There is one loop a process, in a daemon thread that starts with the first call. A forked process
has none at first: it starts its own, and leaves alone what it inherited from its parent. At the end
of the interpreter the loop is asked to finish, and waited for within a bound.

Invariants:

- ``_thread`` is the loop of this process, or ``None``; ``_guard`` is held while it changes, and no
  fork comes in between. If a function of the user's that runs in the loop, such as a predicate of
  a retry, raises ``SystemExit``, asyncio ends the loop; the next call starts another one.
- ``_work`` is what was begun and has not ended. Nothing is added once ``_over`` is set. So every
  piece of work either ends by itself or is told that it is over, and nobody waits for ever.
- The thread of a caller never waits for the loop to take a piece of work, only for its end.
- A fork comes between two steps of the loop (:class:`_Standstill`), so that the forked process
  inherits no half of a step: an import, above all, which nobody could ever finish there.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint, current_token

from gogoscope._core.event_loop import EventLoop, running
from gogoscope._core.forks import after_fork, lock_across_forks, stop_across_forks
from gogoscope.blocking.refusals import refuse_green_threads
from gogoscope.events import log_error
from gogoscope.exceptions import ScopeClosedError

EXIT_SECONDS = 5.0
"""How long the end of the interpreter waits for the loop to finish."""


class Work(Protocol):
    """Something that runs in the loop for a thread that waits for it."""

    begun: bool
    """Whether the loop has begun it."""

    async def run(self) -> None:
        """Do it; raises nothing."""
        ...

    def stop(self) -> None:
        """Cancel it, in the loop; it ends soon."""
        ...

    def over(self) -> None:
        """Note that the loop has ended, so that it will never run."""
        ...


class _Standstill:
    """The loop, as a lock: whoever has it knows that the loop stands still, between two steps.

    Its locks are the plainest there are, since a forked process inherits and releases them.

    :param call_soon: calls a function in the loop
    :param is_elsewhere: whether the loop runs, in another thread of this process
    """

    def __init__(
        self, call_soon: Callable[[Callable[[], object]], None], is_elsewhere: Callable[[], bool]
    ) -> None:
        self._call_soon = call_soon
        self._is_elsewhere = is_elsewhere
        self._over: threading.Lock | None = None

    def acquire(self, *, timeout: float) -> bool:
        """Let the loop stand still; ``False`` if its step takes longer."""
        stands, over = threading.Lock(), threading.Lock()
        stands.acquire()
        over.acquire()

        def stand() -> None:
            stands.release()
            over.acquire()

        until = time.monotonic() + timeout
        self._call_soon(stand)
        while self._is_elsewhere():
            left = until - time.monotonic()
            if stands.acquire(timeout=max(0.0, min(left, 0.05))):
                break
            if left <= 0:
                over.release()
                return False
        self._over = over
        return True

    def release(self) -> None:
        """Let the loop go on."""
        over, self._over = self._over, None
        if over is not None:
            over.release()


class LoopThread:
    """An event loop that runs in a thread of its own, until :meth:`end`."""

    def __init__(self) -> None:
        self.process = os.getpid()
        """The process that it belongs to."""
        self._work: set[Work] = set()
        self._over = False
        self._lock = lock_across_forks()
        self._begun = threading.Event()
        self._loop: EventLoop | None = None
        self._create_task: Callable[[Awaitable[object]], Any]
        self._tasks: set[object] = set()
        self._ended: anyio.Event | None = None
        self.at_end: set[Callable[[], object]] = set()
        """What is called in the loop when it is to end; for what runs in the loop."""
        self._running = threading.Thread(target=self._run, name="gogoscope", daemon=True)
        try:
            self._running.start()
        except RuntimeError as error:  # Python 3.12 starts none when its atexit handlers run
            raise ScopeClosedError(
                f"the event loop of gogoscope.blocking cannot start: {error}"
            ) from error
        self._begun.wait()
        self._standstill = _Standstill(self.call_soon, self._is_elsewhere)
        stop_across_forks(self._standstill)

    def start(self, work: Work) -> None:
        """Begin a piece of work in the loop; it runs in a copy of the caller's context."""
        with self._lock:
            over = self._over
            if not over:
                self._work.add(work)
        if over:
            work.over()
        else:
            context = copy_context()
            self.call_soon(lambda: context.run(self._begin, work))

    def stop(self, work: Work) -> None:
        """Cancel a piece of work; does not wait.

        The thread that asks for it may have been interrupted before it could let the loop begin.
        """
        self.call_soon(partial(self._stop, work))

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call a function in the loop, soon; it raises nothing. Does nothing if the loop ended."""
        if self._loop is not None and self.process == os.getpid():
            self._loop.call_from_anywhere(call)

    def spawn(self, run: Callable[[], Awaitable[object]]) -> None:
        """Run something in the background, from inside the loop; it raises nothing.

        It knows nothing of the context that asked for it, and so keeps none of that alive.
        """
        Context().run(self._create, run)

    def is_here(self) -> bool:
        """Return whether it is the loop of this process, and has not been asked to end."""
        return self.process == os.getpid() and not self._over

    def _is_elsewhere(self) -> bool:
        here = threading.get_ident()
        return (
            self.process == os.getpid() and self._running.is_alive() and self._running.ident != here
        )

    def end(self) -> None:
        """End everything that runs in the loop, and the loop; waits for ``EXIT_SECONDS``."""
        self.call_soon(self._finish)
        self._running.join(EXIT_SECONDS)

    def _run(self) -> None:
        # At the end of the interpreter no thread can be started, which the loop may ask for.
        try:
            with suppress(RuntimeError):
                anyio.run(self._main, backend="asyncio")
        except SystemExit as error:
            log_error("the event loop of gogoscope.blocking was ended", error=error)
        self._end_work()

    async def _main(self) -> None:
        try:
            self._finished = anyio.Event()
            self._loop = running()
            native: Any = current_token().native_token
            self._create_task = native.create_task
            self._begun.set()
            await self._finished.wait()
            while self._tasks:
                self._ended = anyio.Event()
                await self._ended.wait()
        except Exception as error:  # noqa: BLE001 - nobody awaits it
            log_error("the event loop of gogoscope.blocking has failed", error=error)
        finally:
            self._end_work()

    def _begin(self, work: Work) -> None:
        if not self._over:
            work.begun = True
            self._create(partial(self._serve, work))

    def _stop(self, work: Work) -> None:
        if work.begun:
            work.stop()
            return
        with self._lock:
            self._work.discard(work)
        work.over()

    def _create(self, run: Callable[[], Awaitable[object]]) -> None:
        # Not in a task group: anyio cannot start a task in one from outside of all tasks.
        task = self._create_task(run())
        self._tasks.add(task)  # asyncio itself keeps none
        task.add_done_callback(self._note_end)

    def _note_end(self, task: object) -> None:
        self._tasks.discard(task)
        if self._ended is not None:
            self._ended.set()

    async def _serve(self, work: Work) -> None:
        try:
            await work.run()
        finally:
            with self._lock:
                self._work.discard(work)

    def _finish(self) -> None:
        with self._lock:
            self._over = True
        for call in list(self.at_end):
            call()
        for work in list(self._work):
            work.stop()
        self._finished.set()

    def _end_work(self) -> None:
        self._begun.set()
        with self._lock:
            self._over = True
            work, self._work = self._work, set()
        for one in work:
            one.over()


_guard = lock_across_forks()
_thread: LoopThread | None = None
_inherited: list[LoopThread] = []


def loop_thread() -> LoopThread:
    """Return the loop of this process, which is started if it does not run yet.

    :raises UnsupportedEventLoopError: if threads are green ones here
    :raises ScopeClosedError: if no thread can be started, as the interpreter ends
    """
    global _thread  # noqa: PLW0603 - it is that of the process
    if sys.is_finalizing():  # what is called by __del__ now would wait for ever for a thread
        raise ScopeClosedError("the event loop of gogoscope.blocking cannot start: Python ends")
    if _thread is None or not _thread.is_here():
        refuse_green_threads()
        with _guard:
            if _thread is None or not _thread.is_here():
                # Here, so that no fork comes while the other thread imports the event loop.
                anyio.run(checkpoint, backend="asyncio")
                _end_with_process()
                _thread = LoopThread()
    return _thread


def _end_with_process() -> None:
    # Only now, so that what stores have registered for the end comes after this.
    atexit.unregister(_end)
    atexit.register(_end)
    # What is registered there is not called in the processes of these, which have their own way.
    multiprocessing: Any = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None:
        multiprocessing.Finalize(None, _end, exitpriority=0)
    celery: Any = sys.modules.get("celery.signals")
    if celery is not None:
        celery.worker_process_shutdown.connect(_end, weak=False)


def _end(**_: object) -> None:
    global _thread
    thread, _thread = _thread, None
    if thread is not None:
        thread.end()


def _leave_to_parent() -> None:
    """Forget the loop of the parent, and keep all of it: to end it is the parent's business."""
    global _thread  # noqa: PLW0603 - likewise
    if _thread is not None:
        _inherited.append(_thread)
        _thread = None


after_fork(_leave_to_parent)
