"""Who is told of everything that happens in the process."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

from gogoscope.events.event import Event

T = TypeVar("T")

subscribers: list[Callable[[Event], object]] = []


def subscribe(observer: Callable[[Event], object]) -> Callable[[], None]:
    """Send the events of every scope in this process to an observer.

    The observer is called where the event happens, so it must be fast. Its exceptions are logged.

    :returns: a function that ends the subscription
    :raises TypeError: if it is no function, or async
    """
    if not callable(observer) or inspect.iscoroutinefunction(observer):
        raise TypeError(
            f"observer must be a function of an event that is not async, got {observer!r} "
            f"of type {type(observer).__name__}"
        )
    return added(subscribers, observer)


def added(observers: list[T], observer: T) -> Callable[[], None]:
    """Add an observer; return a function that removes it, and no equal one, once."""
    observers.append(observer)
    there = [observer]

    def remove() -> None:
        while there:
            mine = there.pop()
            places = [place for place, other in enumerate(observers) if other is mine]
            if places:
                del observers[places[0]]

    return remove
