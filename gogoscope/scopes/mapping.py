"""The results of ``s.map`` and ``s.as_completed``, as their consumer takes them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, Self, TypeVar

from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.workers import Workers

Item = TypeVar("Item")
T = TypeVar("T")


class Mapped(Generic[T]):
    """The results of ``s.map``, in the order of the items.

    ``await`` returns all of them as a list, ``async for`` yields each as it comes. Nothing starts
    before. Leaving the loop early cancels what runs.
    """

    __slots__ = ("_looped", "_used", "_workers")

    def __init__(self, workers: Workers[Any, T]) -> None:
        self._workers = workers
        self._used = self._looped = False

    def __await__(self) -> Generator[Any, Any, list[Ok[T] | Err]]:
        return self._collect().__await__()

    async def _collect(self) -> list[Ok[T] | Err]:
        self._begin()
        try:
            return [task._result_for_reader() for _, task in await self._workers.take_all()]
        finally:
            self._workers._close()

    def __aiter__(self) -> Self:
        if not self._looped:
            self._begin()
            self._looped = True
        return self

    async def __anext__(self) -> Ok[T] | Err:
        taken = await self._workers.take()
        if taken is None:
            raise StopAsyncIteration
        return taken[1]._result_for_reader()

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._workers.give_up()

    def __del__(self) -> None:
        self._workers.forget()

    def _begin(self) -> None:
        if self._used:
            raise RuntimeError("the results of s.map can be had only once")
        self._used = True
        self._workers.start()


class Completed(Generic[Item, T]):
    """The items and results of ``s.as_completed``, as they come.

    Nothing starts before the loop does. Leaving it early cancels what runs.
    """

    __slots__ = ("_used", "_workers")

    def __init__(self, workers: Workers[Item, T]) -> None:
        self._workers = workers
        self._used = False

    def __aiter__(self) -> Self:
        if not self._used:
            self._used = True
            self._workers.start()
        return self

    async def __anext__(self) -> tuple[Item, Ok[T] | Err]:
        taken = await self._workers.take()
        if taken is None:
            raise StopAsyncIteration
        return taken[0], taken[1]._result_for_reader()

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._workers.give_up()

    def __del__(self) -> None:
        self._workers.forget()
