"""A cache's store, asked in such a way that its failures do no harm."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
from attrs import Factory, define, field, frozen

from gogoscope._core.clock import monotonic
from gogoscope._core.per_store import PerStore
from gogoscope.cache.single_flight import Flights
from gogoscope.events import log_warning
from gogoscope.exceptions import GogoscopeError, PersistenceError, StoreTimeoutError

STORE_SECONDS = 2.0
"""How long a request of ``get_or_set`` may take before the store counts as down."""
OUTAGE_SECONDS = 1.0
"""How long a store that is down is left alone before it is asked again."""

T = TypeVar("T")


@frozen
class Answer(Generic[T]):
    """What the store answered."""

    content: T


@define(eq=False)
class Outage:
    """Whether one kind of request to a store fails; ``effect`` says what that leads to.

    While it does, ``failed`` is true, and the store is asked again at ``ask_at``.
    """

    effect: str
    failed: bool = False
    ask_at: float = -math.inf

    def lasts(self) -> bool:
        """Return whether the store is to be left alone."""
        return self.failed and monotonic() < self.ask_at


@define(eq=False)
class StoreState:
    """What one event loop knows of a store, shared by all caches on it.

    ``flights`` are the loads under way. Its reads, writes and locks fail independently, as they do
    where a disk is full or a permission is missing.
    """

    flights: Flights = field(factory=Flights)
    reads: Outage = Factory(lambda: Outage("cannot be read; functions are called without it"))
    writes: Outage = Factory(lambda: Outage("cannot be written; values are not kept"))
    locks: Outage = Factory(lambda: Outage("cannot lock; each process calls functions itself"))

    async def ask(
        self,
        outage: Outage,
        request: Callable[[], Awaitable[T]],
        on_change: Callable[[GogoscopeError | None], object],
    ) -> Answer[T] | None:
        """Make a request of the store, bounded in time; give ``None`` if requests of its kind fail.

        The log is told once for each outage, and so is ``on_change``: of the error, and of ``None``
        when the store answers again.
        """
        if self.reads.lasts() or outage.lasts():
            return None
        error: GogoscopeError
        try:
            with anyio.move_on_after(STORE_SECONDS):
                answer = Answer(await request())
                if outage.failed:
                    outage.failed = False
                    on_change(None)
                return answer
            error = StoreTimeoutError(
                f"the cache's store did not answer within {STORE_SECONDS:g} s"
            )
        except GogoscopeError as raised:
            error = raised
        if isinstance(error, PersistenceError) and error.retryable:
            outage.ask_at = monotonic() + OUTAGE_SECONDS
        if not outage.failed:
            outage.failed = True
            log_warning("the cache's store %s", outage.effect, error=error)
            on_change(error)
        return None


_states = PerStore("cache_stores", StoreState)
state_of = _states.of
