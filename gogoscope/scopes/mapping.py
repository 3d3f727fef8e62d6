"""The results of ``s.map`` and ``s.as_completed``, as their consumer takes them.

Nothing starts before they are wanted. They can be taken once: awaited, or in one loop. A loop has
an iterator of its own, which ends with it: so a loop that is left cancels what runs, even if the
results have a name.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self, TypeVar

from gogoscope._core.hints import explains
from gogoscope.scopes.delivery import AsCompleted, AtTheEnd, Delivery
from gogoscope.scopes.outcome import let_interrupt_happen, raise_mistake
from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.workers import Workers

Item = TypeVar("Item")
T = TypeVar("T")
R = TypeVar("R")


class Loop(Generic[R]):
    """One loop over the results of a map. When it is left, what runs is cancelled."""

    __slots__ = ("__weakref__", "_delivery", "_thread", "_workers")

    def __init__(self, workers: Workers[Any, Any]) -> None:
        self._workers = workers
        self._delivery = workers.delivery
        self._thread = get_ident()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        if get_ident() != self._thread:  # no two event loops run in one
            self._workers._block._check_here()
        delivery = self._delivery
        task = delivery.take() or await self._workers.next()
        if task is None:
            raise StopAsyncIteration
        if delivery.room == delivery.half:  # enough to let several workers go on at once
            self._workers.go_on()
        result, items = task._result, delivery.items
        delivered: Any = result if items is None else (items.pop(task), result)
        if type(result) is not Ok:
            await let_interrupt_happen(task)
            raise_mistake(task)
        return delivered  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._workers._block._check_here()
        self._workers.give_up()

    def __del__(self) -> None:
        self._workers.forget()


class Results(Generic[R]):
    """What ``s.map`` and ``s.as_completed`` have in common."""

    __slots__ = ("_handed_out", "_loop", "_used", "_workers")

    _method: ClassVar[str]
    _delivery: ClassVar[type[Delivery[Any, Any]]]

    def __init__(self, workers: Workers[Any, Any]) -> None:
        self._workers = workers
        self._used = False
        self._loop: Loop[R] | None = None
        self._handed_out: weakref.ref[Loop[R]] | None = None

    def __repr__(self) -> str:
        workers = self._workers
        state = "not started"
        if workers.started:
            state = f"{len(workers.running)} running, {workers.finished} finished"
        return f"<{self._call} {state}>"

    @property
    def _call(self) -> str:
        return f"{self._method}({self._workers.name})"

    def __aiter__(self) -> Loop[R]:
        loop, self._loop = self._loop or self._begin(), None
        self._handed_out = weakref.ref(loop)
        return loop

    async def __anext__(self) -> R:
        loop = None if self._handed_out is None else self._handed_out()
        if self._handed_out is None:
            loop = self._loop = self._loop or self._begin()
        if loop is None:
            raise StopAsyncIteration
        return await loop.__anext__()

    async def aclose(self) -> None:
        """Cancel what runs; the scope waits for it."""
        self._workers._block._check_here()
        self._used = True
        self._workers.give_up()

    def _begin(self) -> Loop[R]:
        self._use(self._delivery)
        return Loop(self._workers)

    def _use(self, delivery: type[Delivery[Any, Any]]) -> None:
        if self._used:
            raise RuntimeError(
                f"the results of {self._call} can be taken only once, and were awaited or looped "
                "over before; keep them in a list"
            )
        self._workers.start(delivery)
        self._used = True


@explains(
    __iter__="is looped over with 'async for', or awaited: results = await s.map(fn, items)",
    __getitem__="has no parts; await it: results = await s.map(fn, items)",
)
class Mapped(Results[Ok[T] | Err], Generic[T]):
    """The results of ``s.map``, in the order of the items.

    ``await`` returns all of them as a list, ``async for`` yields each as it comes. Nothing starts
    before. Leaving the loop early cancels what runs.
    """

    __slots__ = ()

    _method = "s.map"
    _delivery = Delivery

    def __await__(self) -> Generator[Any, Any, list[Ok[T] | Err]]:
        return self._collect().__await__()

    async def _collect(self) -> list[Ok[T] | Err]:
        self._use(AtTheEnd)
        try:
            return await self._workers.take_all()
        finally:
            self._workers._close()


@explains(__iter__="is looped over with 'async for'")
class Completed(Results[tuple[Item, Ok[T] | Err]], Generic[Item, T]):
    """The items and results of ``s.as_completed``, as they come.

    Nothing starts before the loop does. Leaving it early cancels what runs.
    """

    __slots__ = ()

    _method = "s.as_completed"
    _delivery = AsCompleted

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise TypeError(
                f"{self._call} is not awaited; write: async for item, result in {self._call}, "
                f"or: await s.map({self._workers.name})"
            )
