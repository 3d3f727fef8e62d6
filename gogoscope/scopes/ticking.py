"""Calling a function again and again at a fixed rate: what ``s.every`` runs.

A tick is a task of its own, with the scope's safety nets. Where the scope is stopping, no tick
starts: one that still waits for its slot is cancelled. A tick whose function has been called may
end, with all its attempts; ``_in_tick`` tells that there is one, as does the scope's event.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import anyio

from gogoscope._core.callables import callable_name
from gogoscope._core.clock import monotonic
from gogoscope._core.context import current
from gogoscope._core.interrupts import uninterrupted
from gogoscope._core.stopping import REASON, Stopping
from gogoscope.events import OnError, notify
from gogoscope.scopes.results import Err
from gogoscope.scopes.task import Task
from gogoscope.scopes.unhandled import Unread


class Starter(Protocol):
    """A scope, as what ticks knows it."""

    @property
    def stopping(self) -> Stopping:
        """The event after which no tick starts."""
        ...

    def task(self, fn: Callable[[], Awaitable[object]], /) -> Task[Any]:
        """Start a tick."""
        ...


class Ticker:
    """Calls a function at once and then at a fixed rate, skipping the ticks that it is late for.

    :param scope: what the ticks are tasks of
    :param interval: seconds from the start of one tick to the start of the next
    :param fn: an async function without arguments
    :param on_error: is called with the error of each tick that fails; without it, an error ends all
    """

    __slots__ = ("_fn", "_in_tick", "_interval", "_on_error", "_scope", "_tick", "name")

    def __init__(
        self,
        scope: Starter,
        interval: float,
        fn: Callable[[], Awaitable[object]],
        on_error: OnError | None,
    ) -> None:
        self.name = f"every {interval:g} s: {callable_name(fn)}"
        self._scope = scope
        self._interval = interval
        self._fn = fn
        self._on_error = on_error
        self._tick: Task[Any] | None = None
        self._in_tick = False

    @uninterrupted
    async def run(self) -> None:
        """Tick until the scope is stopping, or until a tick fails and nothing takes its error."""
        stopping = self._scope.stopping
        began = monotonic()
        number = 0
        stopping.listen(self._cancel_unless_begun)
        try:
            while not stopping.is_set():
                await self._run_tick()
                number = max(number + 1, math.floor((monotonic() - began) / self._interval) + 1)
                pause = began + number * self._interval - monotonic()
                with anyio.move_on_after(max(0.0, pause)):
                    await stopping.wait()
        finally:
            stopping.leave(self._cancel_unless_begun)

    async def _run_tick(self) -> None:
        def tick() -> Awaitable[object]:
            self._begin()
            return self._fn()

        tick.__qualname__ = callable_name(self._fn)
        try:
            self._tick = task = self._scope.task(tick)
            result = await task
            if isinstance(result, Err) and not task._was_cancelled:
                self._take(result)
        finally:
            self._tick = None
            self._end()

    def _take(self, failed: Err) -> None:
        """Hand the error of a tick on, or raise it if it is to end all."""
        if self._on_error is None:
            whole = current.get()
            if isinstance(whole, Task) and not whole._awaiters:
                whole._watcher = partial(_tell_at_once, whole)
            raise failed.error
        if notify(self._on_error, failed._unread):
            failed._read()

    def _begin(self) -> None:
        if not self._in_tick:
            self._in_tick = True
            self._scope.stopping.begin()

    def _end(self) -> None:
        if self._in_tick:
            self._in_tick = False
            self._scope.stopping.end()

    def _cancel_unless_begun(self) -> None:
        if self._tick is not None and not self._in_tick and self._scope.stopping.is_set():
            self._tick.cancel(REASON)


def _tell_at_once(ticking: Task[Any]) -> None:
    """Tell of the error that ended all, though somebody may still read it: that may take long."""
    ticking._watcher = None
    result = ticking._result
    if isinstance(result, Err) and isinstance(result._watch, Unread):
        result._watch.tell()
