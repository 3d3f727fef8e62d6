"""Who is told of everything that happens in the process."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from gogoscope.events.event import Event

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
    subscribers.append(observer)

    def unsubscribe() -> None:
        if observer in subscribers:
            subscribers.remove(observer)

    return unsubscribe
