"""Work beside all tasks, in no task group: it ends with whoever began it, in whichever task.

A task group belongs to the task that opened it. What a block does in the background that may be
left in another task, as an exit stack or a fixture does, cannot run in one. Each piece of work has
a cancel scope of its own, and raises nothing: an error is logged. ``_running`` are those that have
not ended. What asyncio itself cancels before its first step begins again: somebody may cancel all
tasks of a program.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

import anyio
from anyio.lowlevel import current_token
from attrs import define, field

from gogoscope.events import log_error


@define(eq=False)
class _Work:
    work: Callable[[], Awaitable[object]]
    brief: bool
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    ended: anyio.Event = field(factory=anyio.Event)
    task: Any = None


class Detached:
    """Work that was begun and is to end."""

    def __init__(self) -> None:
        self._running: set[_Work] = set()
        self._over = False

    def start(self, work: Callable[[], Awaitable[object]], brief: bool) -> bool:
        """Run something in the current event loop.

        :param brief: whether :meth:`end` waits for it
        :returns: ``False`` after :meth:`end`
        """
        if self._over:
            return False
        one = _Work(work, brief)
        self._running.add(one)
        native: Any = current_token().native_token
        if hasattr(native, "create_task"):
            self._begin(one, native)
        else:
            lowlevel = sys.modules["trio"].lowlevel
            lowlevel.spawn_system_task(self._run, one, context=copy_context())
        return True

    def _begin(self, one: _Work, loop: Any) -> None:
        """Begin something in an event loop of asyncio."""
        one.task = loop.create_task(self._run(one))  # asyncio itself keeps no task
        one.task.add_done_callback(lambda _: self._look_for(one, loop))

    def _look_for(self, one: _Work, loop: Any) -> None:
        """See to what never began, when its task has ended."""
        if one not in self._running:
            return
        if self._over:
            self._ended(one)
        else:
            self._begin(one, loop)

    def _ended(self, one: _Work) -> None:
        self._running.discard(one)
        one.ended.set()

    async def _run(self, one: _Work) -> None:
        try:
            with one.scope:
                await one.work()
        except Exception as error:  # noqa: BLE001 - nobody awaits it
            log_error("work in the background failed", error=error)
        finally:
            self._ended(one)

    async def end(self, patience: float) -> None:
        """Wait a moment for what is brief, then cancel the rest and wait for its end.

        :param patience: in seconds
        """
        with anyio.move_on_after(patience):
            for one in [one for one in self._running if one.brief]:
                await one.ended.wait()
        self._over = True
        for one in list(self._running):
            one.scope.cancel()
        for one in list(self._running):
            await one.ended.wait()
