"""Task groups on asyncio whose tasks cost little more than its own.

anyio makes an event, a handle and a callback for each task of a group, before anything needs them.
That is much of what a task costs, in time and in memory. Here a task has a cancel scope, in which
it runs, and what tells of its end.

Nor does such a group cancel itself when a task ends as cancelled with nobody cancelling. asyncio's
own ``Task.cancel()`` knows no groups: whoever cancels all tasks of a program cancels those of a
library, too, even before their first step.

anyio offers neither in public. So what is taken for granted of what it keeps is looked at once
(:func:`_is_as_expected`). Where it is otherwise, anyio's own groups are used, and where the program
has a task factory, anyio's own tasks.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import anyio

from gogoscope._core.launches import Group, Launch, began

BACKEND = "anyio._backends._asyncio"


def open_group(loop: Any, context: Context, on_lost: Callable[[], object]) -> Group:
    """Return a task group on asyncio, which is not entered yet.

    :param loop: asyncio's event loop
    :param context: what ``on_lost`` is called in
    :param on_lost: called when a task may have ended before its first step; it raises nothing
    """
    group: Any = anyio.create_task_group()
    kind: Any = type(group)
    if not _is_as_expected(kind):
        plain: Group = group
        return plain
    # It is called outside of any task, and inside the context in which their ends are noted.
    told = functools.partial(context.copy().run, on_lost)
    scope_kind: Any = type(group.cancel_scope)
    group.cancel_scope = _forgiving(scope_kind)(group._exceptions, told)
    return AsyncioGroup(group, loop, context)


class AsyncioGroup:
    """A task group, around one of anyio's.

    :param loop: asyncio's event loop
    :param context: what the ends of tasks are noted in
    """

    __slots__ = ("context", "group", "host", "loop", "new_scope", "scope", "states")

    def __init__(self, group: Any, loop: Any, context: Context) -> None:
        self.group = group
        self.scope = group.cancel_scope
        self.loop = loop
        self.context = context
        self.states: WeakKeyDictionary[Any, Any] = sys.modules[BACKEND]._task_states
        self.new_scope = _light(sys.modules[BACKEND].CancelScope)
        self.host = 0

    async def __aenter__(self) -> Self:
        await self.group.__aenter__()
        self.host = id(self.scope._host_task)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        left: bool | None = await self.group.__aexit__(exc_type, exc, traceback)
        return left

    def create_task(
        self, coroutine: Coroutine[Any, Any, Any], /, *, name: str, context: Context | None = None
    ) -> Launch:
        """Launch a task.

        :param context: what it runs in; a copy of the current one if left out
        :raises RuntimeError: if the group is not open
        """
        group, scope, loop = self.group, self.scope, self.loop
        if not scope._active or loop.get_task_factory() is not None:
            handle: Launch = group.create_task(coroutine, name=name, context=context)
            return handle
        launch = AsyncioLaunch(self, coroutine)
        runs = launch.run()
        try:
            task = loop.create_task(runs, name=name, context=context)
        except BaseException:
            runs.close()
            coroutine.close()
            raise
        self.states[task] = sys.modules[BACKEND].TaskState(self.host, scope)
        scope._tasks.add(task)
        group._tasks.add(task)
        task.add_done_callback(launch, context=self.context)
        return launch


class AsyncioLaunch:
    """A task of asyncio in a group; it is called when the task has ended."""

    __slots__ = ("_ended", "_group", "_scope", "coro")

    def __init__(self, group: AsyncioGroup, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coro = coroutine
        self._group = group
        self._scope = group.new_scope()
        self._ended: anyio.Event | None = None

    async def run(self) -> None:
        """Run the coroutine: it tells whether it began, which asyncio's task does not."""
        coroutine = self.coro
        with self._scope:
            del self  # what the coroutine raises keeps this frame
            await coroutine

    def cancel(self) -> None:
        """Cancel the task at its next checkpoint, and at every later one."""
        self._scope.cancel()

    async def wait(self) -> None:
        """Wait for the end of the task."""
        if inspect.getcoroutinestate(self.coro) != inspect.CORO_CLOSED:
            self._ended = self._ended or anyio.Event()
            await self._ended.wait()

    def __call__(self, task: Any) -> None:
        """Leave the group: the task has ended."""
        if self._ended is not None:
            self._ended.set()
        group, around = self._group.group, self._group.scope
        self._group.states.pop(task).cancel_scope._tasks.discard(task)
        group._tasks.discard(task)
        waiting = group._on_completed_fut
        if not group._tasks and waiting is not None and not waiting.done():
            waiting.set_result(None)
        if task.cancelled():
            with suppress(BaseException):  # asyncio keeps the frames of its end until it is asked
                task.exception()
            if not began(self):
                around.cancel()  # which says that it is lost, unless an exception cancels the group
        elif (error := task.exception()) is not None:
            group._exceptions.append(error)
            if not around._effectively_cancelled:
                around.cancel()


@functools.cache
def _is_as_expected(kind: Any) -> bool:
    """Return whether anyio keeps for a kind of task group what is taken for granted here."""
    backend: Any = sys.modules.get(BACKEND)
    try:
        group, scope = kind(), backend.CancelScope()
        known = (
            (group._tasks, set),
            (group._exceptions, list),
            (group.cancel_scope, type(scope)),
            (scope._tasks, set),
            (scope._active, bool),
            (scope._effectively_cancelled, bool),
            (backend._task_states, WeakKeyDictionary),
        )
        return (
            kind is backend.TaskGroup
            and all(type(kept) is expected for kept, expected in known)
            and (group._on_completed_fut, scope._host_task) == (None, None)
            and backend.TaskState(1, scope).cancel_scope is scope
        )
    except (AttributeError, TypeError):
        return False


@functools.cache
def _light(kind: Any) -> Any:
    """Return a kind of cancel scope that makes the set of the scopes inside when it is needed.

    Most tasks open none, and it would be the largest part of what waits with a task.
    """

    class Light(kind):  # type: ignore[misc]
        __slots__ = ("_inside",)

        _inside: set[Any]

        @property
        def _child_scopes(self) -> set[Any]:
            try:
                return self._inside
            except AttributeError:
                self._inside = set()
                return self._inside

        @_child_scopes.setter
        def _child_scopes(self, none_yet: set[Any]) -> None:
            """Keep none."""

    return Light


@functools.cache
def _forgiving(kind: Any) -> Any:
    """Return a kind of cancel scope that is cancelled for exceptions only."""

    class Forgiving(kind):  # type: ignore[misc]
        def __new__(cls, *args: object) -> Any:
            return object.__new__(cls)

        def __init__(self, exceptions: list[BaseException], on_lost: Callable[[], object]) -> None:
            super().__init__()
            self._failures = exceptions
            self._on_lost: Callable[[], object] | None = on_lost

        def cancel(self, reason: str | None = None) -> None:
            if self._failures:
                super().cancel(reason)
            elif self._on_lost is not None:
                self._on_lost()

        def __exit__(self, *raised: object) -> Any:
            self._on_lost = None
            return super().__exit__(*raised)

    return Forgiving
