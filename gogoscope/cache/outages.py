"""Requests of ``get_or_set`` to its store, made so that a failing store does no harm.

Every request is bounded in time, and none raises what the store raises: if it fails, the caller
goes on without an answer. A store that was unreachable is then left alone for a second, so that an
outage delays one call and not every one. One warning is logged, and one event is sent, when
requests begin to fail, and one event when they succeed again.

Reading, writing and locking may fail one without the other, as they do where a disk is full or a
permission is missing, so each is an outage of its own. A value that is corrupt or too large is no
outage, since the store has answered. A store that cannot be read is asked for nothing: no other
answer would be of use, and each might take its time.
"""

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
from gogoscope.exceptions import (
    CorruptRecordError,
    GogoscopeError,
    PersistenceError,
    RecordTooLargeError,
    StoreTimeoutError,
)
from gogoscope.persistence.asking import ask

STORE_SECONDS = 2.0
"""How long a request of ``get_or_set`` may take before it counts as failed."""
OUTAGE_SECONDS = 1.0
"""How long an unreachable store is left alone before it is asked again."""

T = TypeVar("T")


@frozen
class Answer(Generic[T]):
    """What the store answered."""

    content: T


@define(eq=False)
class Outage:
    """Whether requests of one kind fail; ``effect`` says in the log what follows from that.

    ``failed`` is true from the first request that fails to the next that succeeds. ``ask_at`` is
    when the store may be asked again, on the clock of ``monotonic()``. An error that is not
    retryable does not move it: every call asks then, since such an answer takes no time. ``silent``
    is true if the last request got no answer.
    """

    effect: str
    failed: bool = False
    silent: bool = False
    ask_at: float = -math.inf

    def lasts(self) -> bool:
        """Return whether the store is to be left alone for now."""
        return self.failed and monotonic() < self.ask_at


@define(eq=False)
class StoreState:
    """What one event loop knows of a store, shared by all caches on it.

    ``flights`` are the loads in flight; ``reads``, ``writes`` and ``locks`` are what fails.
    ``told`` is the error of one value that was logged last.
    """

    flights: Flights = field(factory=Flights)
    reads: Outage = Factory(lambda: Outage("cannot be read; functions are called without it"))
    writes: Outage = Factory(lambda: Outage("cannot be written; values are not kept"))
    locks: Outage = Factory(lambda: Outage("cannot lock; each process calls functions itself"))
    told: str | None = None

    async def ask(
        self,
        outage: Outage,
        request: Callable[[], Awaitable[T]],
        on_change: Callable[[GogoscopeError | None], object],
    ) -> Answer[T] | None:
        """Make a request, and return the answer; ``None`` if it failed or was not made.

        :param outage: that of requests of its kind, here or in another store
        :param request: makes the request
        :param on_change: is called with the error when an outage begins, and with ``None`` when it
            ends
        """
        if self.reads.lasts() or outage.lasts():
            return None
        if outage is self.writes and self.locks.silent and self.locks.lasts():
            return None  # To lock is to write: that has just taken its time in vain.
        error: GogoscopeError
        try:
            with anyio.move_on_after(STORE_SECONDS):
                answer = Answer(await ask(request))
                if outage.failed:
                    outage.failed = outage.silent = False
                    on_change(None)
                return answer
            error = StoreTimeoutError(
                f"the cache's store did not answer within {STORE_SECONDS:g} s"
            )
        except (CorruptRecordError, RecordTooLargeError) as raised:
            self._tell_of_one(raised)
            return None
        except GogoscopeError as raised:
            error = raised
        outage.silent = isinstance(error, StoreTimeoutError)
        if isinstance(error, PersistenceError) and error.retryable:
            outage.ask_at = monotonic() + OUTAGE_SECONDS
        if not outage.failed:
            outage.failed = True
            log_warning("the cache's store %s", outage.effect, error=error)
            on_change(error)
        return None

    def _tell_of_one(self, error: PersistenceError) -> None:
        """Log what is wrong with one value, unless that was the last thing to be logged."""
        if self.told != str(error):
            self.told = str(error)
            log_warning("a value in the cache's store is not used", error=error)


_states = PerStore("cache_stores", StoreState)
state_of = _states.of
