"""The state of an event loop for a store is found by the identity of the store."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Persistence, scope
from gogoscope._core.per_store import PerStore
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


class Equal:
    """A store that equals every other, and so has no hash; it takes no weak reference."""

    __slots__ = ("_inner",)

    def __init__(self) -> None:
        self._inner = MemoryStore()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class EqualReferable(Equal):
    """The same, but weak references to it can be made."""

    __slots__ = ("__weakref__",)


STORES = pytest.mark.parametrize("kind", [Equal, EqualReferable])


def persistence(store: Any) -> Persistence:
    return Persistence(locks=store, circuit_breakers=store)


@STORES
async def test_equal_stores_share_no_state(kind: type[Equal]) -> None:
    state: PerStore[list[int]] = PerStore("test_equal", list)
    first, second = kind(), kind()
    assert first == second
    assert state.of(first) is state.of(first)
    assert state.of(first) is not state.of(second)


async def test_the_state_of_a_store_is_dropped_with_it() -> None:
    class State:
        pass

    states: PerStore[State] = PerStore("test_dropped", State)
    store = EqualReferable()
    state = weakref.ref(states.of(store))
    gc.collect()
    assert state() is not None
    del store
    gc.collect()
    assert state() is None
    assert states.all() == []


@STORES
async def test_equal_stores_have_circuits_of_their_own(kind: type[Equal]) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=1)
    first, second = kind(), kind()

    async def broken() -> None:
        raise OSError("broken")

    async with scope(persistence=persistence(first), circuit_breaker=breaker) as s:
        assert isinstance((await s.task(broken)).error, OSError)
        assert isinstance((await s.task(broken)).error, CircuitOpenError)
    async with scope(persistence=persistence(second), circuit_breaker=breaker) as s:
        assert isinstance((await s.task(broken)).error, OSError)


@STORES
async def test_equal_stores_have_lines_of_their_own_for_a_lock(kind: type[Equal]) -> None:
    async def wait_for_it(store: Equal) -> None:
        async with scope(persistence=persistence(store)) as s, s.lock("key", ttl=60):
            pass

    first, second = kind(), kind()
    async with (
        scope(persistence=persistence(first)) as s,
        anyio.create_task_group() as group,
        s.lock("key", ttl=60),
    ):
        group.start_soon(wait_for_it, first)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            await wait_for_it(second)
