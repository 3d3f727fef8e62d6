"""One load at a time for each key: the others wait for its outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

import anyio
from attrs import define, field

from gogoscope._core.context import slots_lent
from gogoscope.persistence.values import copied

T = TypeVar("T")


class LeftToOthersError(Exception):
    """Raised by a load that gives up; whoever waits for it runs its own."""


@define(eq=False)
class _Flight:
    """A load under way, for whom it is, and how it ended.

    ``left`` is set when whoever flies it leaves, landed or not; ``None`` if nobody does.
    ``waits_for`` are those that its load waits for just now.
    """

    left: anyio.Event | None = None
    waits_for: list[_Flight] = field(factory=list)
    users: int = 0
    landed: bool = False
    value: Any = None
    error: Exception | None = None
    traceback: TracebackType | None = None


_aboard: ContextVar[tuple[_Flight, ...]] = ContextVar("aboard", default=())


class Flights:
    """The loads that are under way in one event loop, by their keys."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    async def run(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """Return the outcome of the load of a key that is under way, or else of ``load``.

        It runs in the task of the first caller. If that is cancelled or gives up, the next one who
        waits runs its own; otherwise all get a copy of the value, or the same error. Who waits
        lends its slot to what the load may start.

        :raises RuntimeError: if the load of a key waits for itself, be it through others
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
        flight.users += 1
        try:
            while not flight.landed:
                if flight.left is None:
                    return await self._fly(key, flight, load)
                with _no_circle(key, flight):
                    async with slots_lent():
                        await flight.left.wait()
        finally:
            flight.users -= 1
            if not flight.users:
                self._forget(key, flight)
        if flight.error is not None:
            raise flight.error.with_traceback(flight.traceback)
        value: T = copied(flight.value)
        return value

    async def _fly(self, key: str, flight: _Flight, load: Callable[[], Awaitable[T]]) -> T:
        token = _aboard.set((*_aboard.get(), flight))
        left = flight.left = anyio.Event()
        try:
            value = await load()
        except LeftToOthersError:
            raise
        except Exception as error:
            flight.error, flight.traceback = error, error.__traceback__
            self._land(key, flight)
            raise
        finally:
            _aboard.reset(token)
            flight.left = None
            left.set()
        flight.value = copied(value)
        self._land(key, flight)
        return value

    def _land(self, key: str, flight: _Flight) -> None:
        """Let those who wait have the outcome, and whoever comes later a flight of its own."""
        flight.landed = True
        self._forget(key, flight)

    def _forget(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def leave_all() -> None:
    """Note that no load under way waits for the current task, whichever started it."""
    _aboard.set(())


@contextmanager
def _no_circle(key: str, flight: _Flight) -> Iterator[None]:
    """Note that the loads around the current task wait for a flight, unless that waits for them."""
    aboard = _aboard.get()
    seen: set[_Flight] = set()
    unvisited = [flight]
    while unvisited:
        seen.add(found := unvisited.pop())
        if found in aboard:
            raise RuntimeError(f"the function that loads {key!r} waits for its own value")
        unvisited += [next_one for next_one in found.waits_for if next_one not in seen]
    for waiting in aboard:
        waiting.waits_for.append(flight)
    try:
        yield
    finally:
        for waiting in aboard:
            waiting.waits_for.remove(flight)
