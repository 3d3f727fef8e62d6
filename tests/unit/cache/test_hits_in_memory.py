"""A value that is in the memory of this process is returned without a request."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import Cache, LocalCache, scope
from gogoscope.cache import outages
from gogoscope.events import CacheHit, CacheMissed, Event
from gogoscope.stores import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]


async def load() -> list[int]:
    return [1]


async def refused(*args: Any, **options: Any) -> Any:
    raise AssertionError("a request was made")


async def test_get_or_set_finds_a_value_in_memory_without_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scope(persistence=MemoryStore()) as s:
        first = await s.cache.get_or_set("k", load, 60)
        monkeypatch.setattr(outages.StoreState, "ask", refused)
        found = await s.cache.get_or_set("k", load, 60)
        assert found == first == [1]
        found.append(2)
        assert await s.cache.get_or_set("k", load, 60) == [1]


async def test_whoever_listens_is_told_of_such_a_value_too() -> None:
    events: list[Event] = []
    async with scope(persistence=MemoryStore(), on_event=events.append) as s:
        for _ in range(2):
            assert await s.cache.get_or_set("k", load, 60) == [1]
    told = [event for event in events if isinstance(event, CacheHit | CacheMissed)]
    assert [type(event) for event in told] == [CacheMissed, CacheHit]
    assert not told[1].local  # type: ignore[union-attr]


async def test_a_value_in_memory_that_has_expired_is_loaded_anew() -> None:
    async with scope(persistence=MemoryStore()) as s:
        await s.cache.set("k", "old", 0.001, stale=60)
        await anyio.sleep(0.01)
        assert await s.cache.get_or_set("k", load, 60, stale_if_error=60) == [1]


async def test_a_local_layer_keeps_what_is_found_in_memory() -> None:
    store = MemoryStore()
    cache = Cache(store, local=LocalCache(ttl=60))
    await store.set("k", [1])
    assert await cache.get_or_set("k", load, 60) == [1]
    await store.set("k", [2])
    assert await cache.get_or_set("k", load, 60) == [1]
