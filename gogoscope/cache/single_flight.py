"""One load at a time for each key: the other callers wait for its outcome.

The load runs in the task of the caller that came first, its pilot, so that cancelling that task
cancels the load. If the pilot leaves without an outcome (it was cancelled, or it left the load to
others), the next waiting caller becomes the pilot and runs a load of its own. With an outcome the
flight has landed: all who waited get a copy of the value, or the same error, and the next caller
starts a new flight. Whether the pilot was cancelled is asked of its own task: a load that unwraps
a task which was cancelled with it raises ``TaskCancelled``, and that is no outcome for others.

A load may ask for other keys, so that flights wait for each other. If one would wait for itself,
through however many others, it would wait for ever. So each task knows the flights whose loads it
runs in (``aboard``), each flight knows the flights that its load waits for (``waits_for``), and
before a task waits it follows those from the flight that it wants: if it meets one that it is
aboard of, that is an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
from attrs import define, field

from gogoscope._core.between import Between
from gogoscope._core.cancellation import error_of_call
from gogoscope._core.context import slots_lent
from gogoscope._core.errors import Origin
from gogoscope.persistence.values import copied

T = TypeVar("T")


class LeftToOthersError(Exception):
    """Raised by a load that leaves the work to others, so that a waiting caller runs its own."""


@define(eq=False)
class _Flight:
    """A load in flight, and its outcome when it has landed.

    ``left`` is set when the pilot leaves, landed or not, and ``None`` while there is no pilot.
    ``waits_for`` are the flights that its load waits for now, one entry for each waiting task.
    ``users`` counts the callers inside ``run``; with the last one the flight is forgotten.
    """

    left: anyio.Event | None = None
    waits_for: list[_Flight] = field(factory=list)
    users: int = 0
    landed: bool = False
    value: Any = None
    error: Exception | None = None
    origin: Origin | None = None


# The flights whose loads the current task runs in, the outermost first; child tasks inherit them.
aboard: ContextVar[tuple[_Flight, ...]] = ContextVar("aboard", default=())


class Flights:
    """The loads in flight in one event loop, by their keys."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    async def run(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """Return the outcome of the load of a key that is in flight, or else of ``load``.

        A caller that waits lends its slot to the tasks that the load may start. A caller that is
        cancelled disturbs no other.

        :raises RuntimeError: if the load of a key waits for itself, directly or through others
        :raises LeftToOthersError: if ``load`` raises it
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
            assert flight.origin is not None
            flight.origin.restore(flight.error)
            raise flight.error
        value: T = copied(flight.value)
        return value

    async def _fly(self, key: str, flight: _Flight, load: Callable[[], Awaitable[T]]) -> T:
        token = aboard.set((*aboard.get(), flight))
        left = flight.left = anyio.Event()
        try:
            value = await load()
        except LeftToOthersError:
            raise
        except BaseException as raised:
            error = error_of_call(raised)
            if error is None:  # the pilot is being cancelled, or the program ends
                raise
            flight.error, flight.origin = error, Origin(error)
            self._land(key, flight)
            if error is raised:
                raise
            raise error from raised
        finally:
            aboard.reset(token)
            flight.left = None
            left.set()
        flight.value = copied(value)
        self._land(key, flight)
        return value

    def _land(self, key: str, flight: _Flight) -> None:
        """Let the waiting callers have the outcome, and the next caller a flight of its own."""
        flight.landed = True
        self._forget(key, flight)

    def _forget(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def leave_all() -> None:
    """Note that no load waits for the current task, whichever started it."""
    aboard.set(())


def _no_circle(key: str, flight: _Flight) -> Between:
    """Note that the loads around the current task wait for a flight.

    :raises RuntimeError: if that flight waits for one of them
    """
    around = aboard.get()
    seen: set[_Flight] = set()
    unvisited = [flight]
    while unvisited:
        seen.add(found := unvisited.pop())
        if found in around:
            raise RuntimeError(f"the function that loads {key!r} waits for its own value")
        unvisited += [next_one for next_one in found.waits_for if next_one not in seen]

    def begin() -> None:
        for waiting in around:
            waiting.waits_for.append(flight)

    def end() -> None:
        for waiting in around:
            waiting.waits_for.remove(flight)

    return Between(begin, end)
