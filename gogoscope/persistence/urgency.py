"""Which requests a lease depends on: they go before all others, whatever they are about.

Whoever holds a lease must be able to renew it, to pass it on and to end it, however many values are
being written at that time. Whether a request is one of those is known where it is made, in the few
lines that renew, hand over and release; and it matters where it is sent, in the client of a server.
In between are methods of many capabilities, of which each one could forget to pass it on. So it is
a variable of the context: what is awaited by :func:`urgently` is urgent, whatever it awaits.

A client leaves some connections free for what :func:`is_urgent`. There are never many of those at
once: a process has one renewal in flight for each lease that it holds. A claim is not urgent.

A renewal whose answer is lost must be sent again before the lease is over. So a client waits for no
answer longer than :func:`time_of_try` says, whatever its own time limit is.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

TRIES_PER_LEASE = 4
"""So many tries fit into a lease: it is renewed at a third of it, and may be tried again twice."""
SHORTEST_TRY = 0.1

_patience: ContextVar[float | None] = ContextVar("gogoscope.urgent", default=None)
"""For how long a try may take, in seconds; ``None`` for a request that is not urgent."""


async def urgently(request: Awaitable[T], *, lease: float = math.inf) -> T:
    """Await a request of a store that a lease depends on, and return its answer.

    :param lease: how long the lease lasts that it renews, in seconds
    """
    before = _patience.get()
    outer = math.inf if before is None else before
    _patience.set(min(outer, max(SHORTEST_TRY, lease / TRIES_PER_LEASE)))
    try:
        return await request
    finally:
        _patience.set(before)  # no reset(): a coroutine may be closed in another context


def is_urgent() -> bool:
    """Return whether a lease depends on the request that the caller is about to send."""
    return _patience.get() is not None


def time_of_try(timeout: float) -> float:
    """Return how long one try of the request that the caller is about to send may take.

    :param timeout: how long it may take if no lease depends on it, in seconds
    """
    patience = _patience.get()
    return timeout if patience is None else min(timeout, patience)
