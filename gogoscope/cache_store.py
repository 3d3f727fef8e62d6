"""A cache's store, asked in such a way that its failures do no harm."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import RunVar
from attrs import define, field, frozen

from gogoscope.clock import monotonic
from gogoscope.exceptions import GogoscopeError, PersistenceError, StoreTimeoutError
from gogoscope.observers import log_warning
from gogoscope.single_flight import Flights

if TYPE_CHECKING:
    from gogoscope.persistence.protocols import CacheProvider

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
class StoreState:
    """What one event loop knows of a store, shared by all caches on it.

    ``flights`` are the loads under way. While the store is down, ``failed`` is true, and it is
    asked again at ``ask_at``.
    """

    flights: Flights = field(factory=Flights)
    failed: bool = False
    ask_at: float = -math.inf


_states: RunVar[WeakKeyDictionary[object, StoreState]] = RunVar("gogoscope.cache_stores")


def state_of(provider: CacheProvider) -> StoreState:
    """Give what the running event loop knows of a store; it lives as long as the store."""
    states = _states.get(None)
    if states is None:
        _states.set(states := WeakKeyDictionary())
    state = states.get(provider)
    if state is None:
        state = states[provider] = StoreState()
    return state


async def ask(
    state: StoreState,
    request: Callable[[], Awaitable[T]],
    on_change: Callable[[GogoscopeError | None], object],
) -> Answer[T] | None:
    """Ask the store, bounded in time; give ``None`` if it is down.

    The log is told once for each outage, and so is ``on_change``: of the error, and of ``None``
    when the store answers again.
    """
    if state.failed and monotonic() < state.ask_at:
        return None
    error: GogoscopeError
    try:
        with anyio.move_on_after(STORE_SECONDS):
            answer = Answer(await request())
            if state.failed:
                state.failed = False
                on_change(None)
            return answer
        error = StoreTimeoutError(f"the cache's store did not answer within {STORE_SECONDS:g} s")
    except GogoscopeError as raised:
        error = raised
    if isinstance(error, PersistenceError) and error.retryable:
        state.ask_at = monotonic() + OUTAGE_SECONDS
    if not state.failed:
        state.failed = True
        log_warning("the cache's store fails; functions are called without it", error=error)
        on_change(error)
    return None
