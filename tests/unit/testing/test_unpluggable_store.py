"""A store that a test unplugs, slows down and plugs in again."""

from __future__ import annotations

import inspect
import math
from datetime import timedelta
from typing import Any

import anyio
import pytest

from gogoscope import (
    CapabilityNotSupportedError,
    CircuitBreaker,
    CircuitOpenError,
    LeaseLostError,
    Persistence,
    StoreConnectionError,
    cached,
    scope,
)
from gogoscope.persistence import (
    CacheProvider,
    CircuitBreakerStateProvider,
    LockProvider,
    Store,
)
from gogoscope.persistence.bundle import capabilities
from gogoscope.stores.memory import MemoryStore
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope.testing import UnpluggableStore, VirtualClock
from tests.support.backends import Backend

BACKENDS: list[Backend] = ["asyncio", "trio"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


async def charge() -> str:
    return "receipt"


async def fail() -> str:
    raise ValueError("the service is down")


@every_backend
def test_an_unplugged_store_fails_as_an_engine_does(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        typed: Store = store
        await typed.set("key", 1)
        store.unplug()
        for request in (
            store.get("key"),
            store.set("key", 2),
            store.acquire("lock", 30),
            store.get_state("circuit"),
            store.keys(),
        ):
            with pytest.raises(StoreConnectionError, match="the store is unplugged") as caught:
                await request
            assert caught.value.retryable
        with pytest.raises(StoreConnectionError):
            async for _ in store.iterate_keys():
                pass
        store.plug_in()
        assert await store.get("key") == 1
        assert [key async for key in store.iterate_keys()] == ["key"]
        assert store.requests == {
            "get": 2,
            "set": 2,
            "claim_lock": 1,
            "get_state": 1,
            "keys": 1,
            "iterate_keys": 2,
        }

    virtual_clock.run(program, backend=backend)
    assert virtual_clock.elapsed() == 0


@every_backend
def test_a_store_that_is_slowed_down_takes_that_much_longer(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> list[float]:
        store = UnpluggableStore(MemoryStore())
        took: list[float] = []
        for delay in (0.0, 3, timedelta(minutes=1)):
            store.slow_down(delay)
            began = anyio.current_time()
            await store.set("key", 1)
            took.append(anyio.current_time() - began)
        store.slow_down(math.inf)
        with anyio.move_on_after(1000) as patience:
            await store.get("key")
        assert patience.cancelled_caught
        store.plug_in()
        assert await store.get("key") == 1
        return took

    assert virtual_clock.run(program, backend=backend) == [0, 3, 60]


@every_backend
def test_a_slow_request_is_carried_out_halfway_and_fails_if_the_store_is_unplugged_meanwhile(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        for unplugged_at, value in ((0.5, None), (1.5, 1)):
            store.slow_down(2)
            async with scope() as s:
                task = s.task(store.set, "key", 1)
                await anyio.sleep(unplugged_at)
                store.unplug()
                assert isinstance((await task).error, StoreConnectionError)
            store.plug_in()
            assert await store.get("key") == value

    virtual_clock.run(program, backend=backend)


@every_backend
def test_a_lock_is_lost_when_its_store_stays_unplugged_for_the_lease(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        async with scope(persistence=store) as s:
            with pytest.raises(LeaseLostError, match="the store is unplugged"):
                async with s.lock("order", ttl=30):
                    await anyio.sleep(100)
                    store.unplug()
                    await anyio.sleep(100)
            store.plug_in()
            async with s.lock("order", ttl=30) as locked:
                store.unplug()
                await anyio.sleep(9)
                store.plug_in()
                await anyio.sleep(100)
                locked.ensure()
            handle = await store.acquire("mine", 30)
            assert handle is not None
            store.unplug()
            with pytest.raises(StoreConnectionError):
                await handle.extend(30)

    virtual_clock.run(program, backend=backend)


@every_backend
def test_breakers_and_caches_go_on_without_their_store(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=2)

    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        async with scope(persistence=store) as s:
            load = cached(store, 60)(charge)
            store.unplug()
            assert await load() == "receipt"
            for _ in range(2):
                assert isinstance((await s.task(fail, circuit_breaker=breaker)).error, ValueError)
            err, _ = await s.task(fail, circuit_breaker=breaker)
            assert isinstance(err, CircuitOpenError)
            store.plug_in()

    virtual_clock.run(program, backend=backend)


class OnlyCircuits:
    """A store that lacks locks and a cache."""

    def __init__(self) -> None:
        whole = MemoryStore()
        for name in dir(CircuitBreakerStateProvider):
            if not name.startswith("_"):
                setattr(self, name, getattr(whole, name))


@pytest.mark.anyio
async def test_it_can_what_its_store_can() -> None:
    whole = UnpluggableStore(MemoryStore())
    for capability in (LockProvider, CircuitBreakerStateProvider, CacheProvider):
        assert isinstance(whole, capability)
    part = UnpluggableStore(OnlyCircuits())
    assert isinstance(part, CircuitBreakerStateProvider)
    assert not isinstance(part, LockProvider | CacheProvider)
    async with scope(persistence=part) as s:
        with pytest.raises(CapabilityNotSupportedError, match="UnpluggableStore"):
            await s.acquire_lock("key", 30)
    assert not hasattr(part, "get")


@pytest.mark.anyio
async def test_every_method_that_makes_requests_fails_while_it_is_unplugged_and_no_other() -> None:
    store: Any = UnpluggableStore(MemoryStore())
    await store.acquire("k", 5)
    store.unplug()
    for protocol in capabilities().values():
        for name in (name for name in dir(protocol) if not name.startswith("_")):
            method = getattr(store, name)
            if inspect.iscoroutinefunction(method):
                with pytest.raises(StoreConnectionError):
                    await (method("k", 5) if name == "acquire" else method())
            elif inspect.isasyncgenfunction(method):
                with pytest.raises(StoreConnectionError):
                    await anext(method())
            else:
                assert not inspect.iscoroutinefunction(getattr(MemoryStore, name))
    with pytest.raises(StoreConnectionError):
        await store.ping()
    store.plug_in()
    assert [key async for key in store.iterate_keys()] == []
    assert await store.ping() is None
    assert list(await store.locks()) == ["k"]


@pytest.mark.anyio
async def test_it_opens_and_closes_the_store_that_it_is_entered_for(tmp_path: Any) -> None:
    async with UnpluggableStore(SQLiteStore(tmp_path / "store.db")) as store:
        await store.set("key", 1)
        store.unplug()
        with pytest.raises(StoreConnectionError):
            await store.get("key")
        store.plug_in()
        assert await store.get("key") == 1


def test_what_is_no_store_is_refused() -> None:
    for wrong in (3, "memory:", Persistence(cache=MemoryStore())):
        with pytest.raises(TypeError, match="store"):
            UnpluggableStore(wrong)
    with pytest.raises(ValueError, match="delay must be 0 or more seconds, got -1"):
        UnpluggableStore(MemoryStore()).slow_down(-1)


def test_it_shows_its_state() -> None:
    store = UnpluggableStore(MemoryStore())
    assert repr(store) == f"<UnpluggableStore of {store._store!r}>"
    store.slow_down(2)
    assert repr(store).endswith(", slowed down by 2 s>")
    store.unplug()
    assert repr(store).endswith(", unplugged>")
