"""Which requests a lease depends on: they go before all others, whatever they are about.

Whoever holds a lease must be able to renew it, to pass it on and to end it, however many values are
being written at that time. Whether a request is one of those is known where it is made, in the few
lines that renew, hand over and release; and it matters where it is sent, in the client of a server.
In between are methods of many capabilities, of which each one could forget to pass it on. So it is
a variable of the context: what is awaited by :func:`urgently` is urgent, whatever it awaits.

A client leaves some connections free for what :func:`is_urgent`. There are never many of those at
once: a process has one renewal in flight for each lease that it holds. A claim is not urgent.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_urgent: ContextVar[bool] = ContextVar("gogoscope.urgent", default=False)


async def urgently(request: Awaitable[T]) -> T:
    """Await a request of a store that a lease depends on, and return its answer."""
    before = _urgent.get()
    _urgent.set(True)
    try:
        return await request
    finally:
        _urgent.set(before)  # no reset(): a coroutine may be closed in another context


def is_urgent() -> bool:
    """Return whether a lease depends on the request that the caller is about to send."""
    return _urgent.get()
