"""The tasks of the event loop that run our code, and those among them that never begin.

asyncio's own ``Task.cancel()`` may end a task before its first step. Nothing of its code runs then,
so whoever launched it has to be told (:func:`end_what_never_began`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from gogoscope._core.cancellation import on_asyncio


class Launch(Protocol):
    """A task of the event loop, as whoever launched it knows it."""

    @property
    def coro(self) -> Coroutine[Any, Any, Any]:
        """What it runs."""
        ...

    def cancel(self) -> None:
        """Cancel it, as a cancel scope does; do nothing if it has ended."""
        ...

    async def wait(self) -> None:
        """Wait for its end."""
        ...


class Group(Protocol):
    """A task group; leaving it waits for its tasks."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...  # not bool: type checkers would doubt what follows the block

    def create_task(
        self, coroutine: Coroutine[Any, Any, Any], /, *, name: str, context: Context | None = None
    ) -> Launch:
        """Launch a task; if that is impossible, the coroutine is closed."""
        ...


Launched: TypeAlias = "tuple[Launch, Callable[[], object]]"
"""A launch, and what is to be called if it ended before its first step."""


class Launches(Protocol):
    """Something that is run by tasks of the event loop."""

    def _launched(self) -> Iterable[Launched]:
        """Return those that may not have begun."""
        ...


def began(launch: Launch) -> bool:
    """Return whether a task has taken its first step."""
    return inspect.getcoroutinestate(launch.coro) != inspect.CORO_CREATED


def unbegun(works: Iterable[Launches]) -> list[Launched]:
    """Return the tasks of asyncio that have not begun, or never will."""
    return [
        (launch, ended)
        for work in (works if on_asyncio() else ())
        for launch, ended in work._launched()
        if not began(launch)
    ]


def end_what_never_began(launched: Iterable[Launched]) -> None:
    """End what asyncio itself cancelled before its first step, which it reports to nobody.

    That is what happens to all tasks when a Ctrl-C, for example, ends the program.

    :param launched: what had not begun an iteration of the event loop ago
    """
    for launch, ended in launched:
        if not began(launch):
            launch.coro.close()
            ended()
