"""The cache of a scope, and the arguments of a cache."""

from __future__ import annotations

import gc
import math
import weakref
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope import Cache, CapabilityNotSupportedError, LocalCache, Persistence, cached, scope
from gogoscope.cache.outages import state_of
from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.stores.memory import MemoryStore
from tests.unit.cache.sources import Run, Source


def test_a_scope_has_one_cache_which_is_that_of_its_bundle(run: Run) -> None:
    async def program() -> None:
        store = MemoryStore()
        given = Cache(store)
        async with scope(persistence=Persistence(cache=given)) as s:
            assert s.cache is s.cache
            assert s.cache._layers.store is store
            assert s.cache._context.locks is store
            await s.cache.set("k", 1)
        assert given._context.observer is None
        assert await given.get("k") == 1

    run(program)


@pytest.mark.anyio
async def test_a_cache_is_itself_a_cache_provider_and_passes_everything_on() -> None:
    store = MemoryStore()
    cache = Cache(store)
    assert isinstance(cache, CacheProvider)
    assert await cache.set("a", 1) is True
    assert await cache.set("a", 2, if_absent=True) is False
    await cache.set_many({"b": 2, "c": 3}, ttl=60)
    assert await cache.get_many(["a", "b", "x"]) == {"a": 1, "b": 2}
    assert await cache.touch("b") is True
    entry = await cache.get_entry("b")
    assert entry is not None
    assert (entry.value, entry.left) == (2, math.inf)
    assert await cache.delete("a") is True
    await cache.delete_many(["b"])
    assert await cache.has("c") is True
    assert await cache.keys() == [key async for key in cache.iterate_keys()] == ["c"]
    await cache.clear()
    assert await store.keys() == []
    assert "MemoryStore" in repr(cache)


@pytest.mark.anyio
async def test_bad_arguments_are_named() -> None:
    cache, load = Cache(MemoryStore()), Source(0).load
    get: Any = cache.get_or_set
    coroutine = load()
    with pytest.raises(TypeError, match=r"write get_or_set\(key, load, ttl, \*args\)"):
        await get("k", coroutine, 60)
    coroutine.close()
    with pytest.raises(ValueError, match="key must not be empty"):
        await get("", load, 60)
    for name, bad in {
        "stale_while_revalidate": -1,
        "stale_if_error": math.inf,
        "negative_ttl": -1,
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            await get("k", load, 60, **{name: bad})
    with pytest.raises(ValueError, match="ttl must be more than 0"):
        await get("k", load, 0)
    with pytest.raises(ValueError, match="ttl must be at most"):
        await get("k", load, 60, lease=13 * 3600)
    with pytest.raises(CapabilityNotSupportedError, match="does not support cache"):
        Cache(Persistence(locks=MemoryStore()))
    not_a_store: Any = {}
    with pytest.raises(TypeError, match="persistence must be a URL, a store"):
        Cache(not_a_store)
    assert await cache.keys() == []


@pytest.mark.anyio
@pytest.mark.parametrize("in_scope", [True, False])
async def test_a_function_that_is_not_async_is_an_error_even_with_an_old_value(
    in_scope: bool,
) -> None:
    def not_async(*args: Any) -> int:
        return 7

    fn: Any = not_async
    store = MemoryStore()
    words = (
        r"(get_or_set|cached) takes an async function, but .*not_async returned 7, which cannot be "
        r"awaited; run not_async in a worker thread: .*run_sync, not_async\)"
    )
    async with scope(persistence=store) as s:
        cache = s.cache if in_scope else Cache(store)
        with pytest.raises(TypeError, match=words):
            await cache.get_or_set("k", fn, 60)
        with pytest.raises(TypeError, match=words):
            await cached(cache, 60, key=str)(fn)("k")
        await store.set("k", "old", 1e-3, stale=60)
        while await store.has("k"):
            await anyio.sleep(1e-3)
        with pytest.raises(TypeError, match=words):
            await cache.get_or_set("k", fn, 60, stale_if_error=60)


@pytest.mark.anyio
@pytest.mark.parametrize("local", [True, False])
async def test_a_bad_key_and_a_bad_mapping_are_named_with_and_without_a_local_layer(
    local: bool,
) -> None:
    cache: Any = Cache(MemoryStore(), local=LocalCache() if local else None)
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    for call in (cache.get, cache.delete, cache.touch, partial(cache.set, value=1)):
        with pytest.raises(TypeError, match=r"key must be a str, got \['a'\] of type list"):
            await call(["a"])
    for not_a_mapping in (None, 5, [("a", 1)]):
        with pytest.raises(TypeError, match="values must be a mapping of keys to values, got"):
            await cache.set_many(not_a_mapping)
    for call in (cache.delete_many, cache.get_many):
        for no_keys in (None, 5):
            with pytest.raises(TypeError, match="keys must be an iterable of str, got"):
                await call(no_keys)
        with pytest.raises(TypeError, match=r"write \['k'\]"):
            await call("k")
    assert await cache.get("k") == 1


def test_any_object_with_the_methods_of_a_cache_provider_is_a_store(run: Run) -> None:
    class Delegating:
        """A store that cannot be hashed, is equal to others, and takes no weak references."""

        __slots__ = ("inner",)
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, inner: MemoryStore) -> None:
            self.inner = inner

        def __eq__(self, other: object) -> bool:
            return True

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class Referable(Delegating):
        __slots__ = ("__weakref__",)

    async def program() -> None:
        for kind in (Delegating, Referable):
            for number in range(3):
                store: Any = kind(MemoryStore())
                cache, source = Cache(Persistence(cache=store, locks=store)), Source()
                async with anyio.create_task_group() as group:
                    for _ in range(5):
                        group.start_soon(cache.get_or_set, "k", source.load, 60, number)
                assert source.loads == 1
                assert await cache.get("k") == {"number": 1, "args": [number]}
                assert state_of(store) is state_of(store)

    run(program)


@pytest.mark.anyio
async def test_the_state_of_a_store_is_dropped_with_the_store() -> None:
    async def use() -> weakref.ref[object]:
        store = MemoryStore()
        await Cache(store).get_or_set("k", Source(0).load, 60)
        return weakref.ref(state_of(store))

    state = await use()
    await anyio.lowlevel.checkpoint()  # asyncio keeps a cancellation for the step it was thrown in
    gc.collect()
    assert state() is None
