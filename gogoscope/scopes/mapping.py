"""The results of ``s.map`` and ``s.as_completed``, as their consumer takes them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, Self, TypeVar

from gogoscope._core.callables import NotAwaitableError
from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.task import Task
from gogoscope.scopes.workers import Stream

Item = TypeVar("Item")
T = TypeVar("T")


class Mapped(Generic[T]):
    """The results of ``s.map``, in the order of the items.

    ``await`` gives all of them as a list, ``async for`` one after the other as they come. Nothing
    starts before. Leaving the loop early cancels what runs.
    """

    __slots__ = ("_looped", "_stream", "_used")

    def __init__(self, stream: Stream[Any, T]) -> None:
        self._stream = stream
        self._used = self._looped = False

    def __await__(self) -> Generator[Any, Any, list[Ok[T] | Err]]:
        return self._collect().__await__()

    async def _collect(self) -> list[Ok[T] | Err]:
        self._begin()
        try:
            return _looked_at([task for _, task in await self._stream.take_all()])
        finally:
            self._stream.close()

    def __aiter__(self) -> Self:
        if not self._looped:
            self._begin()
            self._looped = True
        return self

    async def __anext__(self) -> Ok[T] | Err:
        taken = await self._stream.take()
        if taken is None:
            raise StopAsyncIteration
        return taken[1].look()

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._stream.give_up()

    def __del__(self) -> None:
        self._stream.forgotten()

    def _begin(self) -> None:
        if self._used:
            raise RuntimeError("the results of s.map can be had only once")
        self._used = True
        self._stream.start()


def _looked_at(tasks: list[Task[T]]) -> list[Ok[T] | Err]:
    try:
        for task in tasks:
            task.refuse_wrong_function()
    except NotAwaitableError:
        for task in tasks:
            task.detach(abandoned=True)
        raise
    return [task.look() for task in tasks]


class Completed(Generic[Item, T]):
    """The items and results of ``s.as_completed``, as they come.

    Nothing starts before the loop does. Leaving it early cancels what runs.
    """

    __slots__ = ("_stream", "_used")

    def __init__(self, stream: Stream[Item, T]) -> None:
        self._stream = stream
        self._used = False

    def __aiter__(self) -> Self:
        if not self._used:
            self._used = True
            self._stream.start()
        return self

    async def __anext__(self) -> tuple[Item, Ok[T] | Err]:
        taken = await self._stream.take()
        if taken is None:
            raise StopAsyncIteration
        return taken[0], taken[1].look()

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._stream.give_up()

    def __del__(self) -> None:
        self._stream.forgotten()
