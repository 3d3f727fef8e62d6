"""The local layer: bounded in staleness and in size, and safe from changes of its values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope import Cache, LocalCache, Persistence, scope
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.stores.memory import MemoryStore
from tests.unit.cache.sources import Run


class CountingStore(MemoryStore):
    """A store that counts its reads, each of which takes a moment."""

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self._seconds = seconds

    async def get_entry(self, key: str, **options: bool) -> CacheEntry | None:
        self.reads[key] += 1
        entry = await super().get_entry(key, **options)
        await anyio.sleep(self._seconds)
        return entry


def test_a_value_that_was_read_is_not_read_again_within_ttl(run: Run) -> None:
    async def program() -> None:
        store = CountingStore()
        cache = Cache(store, local=LocalCache(ttl=1))
        await store.set("k", {"a": 1})
        for _ in range(5):
            assert await cache.get("k") == {"a": 1}
        assert store.reads["k"] == 1
        assert await cache.get("missing", 7) == 7
        assert await cache.get("missing", 7) == 7
        assert store.reads["missing"] == 2

    run(program)


def test_a_change_by_another_process_is_seen_after_ttl_at_the_latest(run: Run) -> None:
    async def program() -> None:
        store = CountingStore(seconds=0.25)
        cache = Cache(store, local=LocalCache(ttl=1))
        await store.set("k", "old")
        assert await cache.get("k") == "old"
        await store.set("k", "new")
        await anyio.sleep(0.74)
        assert await cache.get("k") == "old"
        await anyio.sleep(0.02)
        assert await cache.get("k") == "new"

    run(program)


def test_a_change_through_the_same_cache_is_seen_at_once(run: Run) -> None:
    async def program() -> None:
        store = CountingStore()
        cache = Cache(store, local=LocalCache(ttl=100))
        changes: list[tuple[Callable[[], Awaitable[object]], str]] = [
            (lambda: cache.set("k", "set"), "set"),
            (lambda: cache.set_many({"k": "set_many"}), "set_many"),
            (lambda: cache.delete("k"), "missing"),
            (lambda: cache.set("k", "again", if_absent=True), "again"),
            (lambda: cache.delete_many(key for key in ["k"]), "missing"),
            (lambda: cache.set("k", "last"), "last"),
            (cache.clear, "missing"),
        ]
        for change, expected in changes:
            await change()
            assert await cache.get("k", "missing") == expected
            assert await cache.get("k", "missing") == expected
        await cache.set("k", 1, ttl=50)
        assert await cache.get("k") == 1
        await cache.touch("k", 1)
        await anyio.sleep(2)
        assert await cache.get("k", "missing") == "missing"

    run(program)


def test_a_read_that_a_change_overtook_is_not_kept(run: Run) -> None:
    async def program() -> None:
        store = CountingStore(seconds=1)
        cache = Cache(store, local=LocalCache(ttl=100))
        await store.set("k", "old")
        async with anyio.create_task_group() as group:
            group.start_soon(cache.get, "k")
            await anyio.sleep(0.5)
            await cache.set("k", "new")
        assert await cache.get("k") == "new"

    run(program)


def test_no_value_outlives_its_end_in_the_store(run: Run) -> None:
    async def program() -> None:
        store = CountingStore()
        cache = Cache(store, local=LocalCache(ttl=100))
        await store.set("k", 1, ttl=2)
        entry = await cache.get_entry("k")
        assert entry is not None
        await anyio.sleep(1.5)
        entry = await cache.get_entry("k")
        assert entry is not None
        assert entry.left == pytest.approx(0.5)
        await anyio.sleep(0.6)
        assert await cache.get_entry("k") is None

    run(program)


def test_the_least_recently_used_value_is_dropped_when_the_layer_is_full(run: Run) -> None:
    async def program() -> None:
        store, local = CountingStore(), LocalCache(max_items=3, ttl=100)
        cache = Cache(store, local=local)
        await store.set_many({f"k{number}": number for number in range(10)})
        for number in (0, 1, 2, 0, 3, 0):
            assert await cache.get(f"k{number}") == number
        assert len(local) == 3
        assert store.reads == {"k0": 1, "k1": 1, "k2": 1, "k3": 1}
        await cache.get("k2")
        await cache.get("k1")
        assert store.reads == {"k0": 1, "k1": 2, "k2": 1, "k3": 1}
        for number in range(10):
            await cache.get(f"k{number}")
        assert len(local) == 3

    run(program)


def test_changing_a_returned_value_does_not_change_the_layer(run: Run) -> None:
    async def program() -> None:
        store = CountingStore()
        cache = Cache(store, local=LocalCache(ttl=100))
        await store.set("k", {"tags": []})
        for _ in range(3):
            value = await cache.get("k")
            assert value == {"tags": []}
            value["tags"].append("mine")

    run(program)


def test_latest_and_has_ask_the_store(run: Run) -> None:
    async def program() -> None:
        store = CountingStore()
        cache = Cache(store, local=LocalCache(ttl=100))
        await store.set("k", "old")
        await cache.get("k")
        await store.delete("k")
        assert await cache.has("k") is False
        assert await cache.get("k") == "old"
        assert await cache.get_entry("k", latest=True) is None

    run(program)


def test_get_or_set_makes_no_request_for_a_value_in_the_layer(run: Run) -> None:
    async def program() -> None:
        store, loads = CountingStore(), 0

        async def load() -> int:
            nonlocal loads
            loads += 1
            return loads

        async with scope(persistence=Persistence(cache=Cache(store, local=LocalCache(ttl=1)))) as s:
            assert await s.cache.get_or_set("k", load, 60) == 1
            assert await s.cache.get_or_set("k", load, 60) == 1
            reads = store.reads["k"]
            for _ in range(10):
                assert await s.cache.get_or_set("k", load, 60) == 1
            assert store.reads["k"] == reads
            await anyio.sleep(61)
            assert await s.cache.get_or_set("k", load, 60) == 2

    run(program)


def test_bad_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="max_items must be 1 or more"):
        LocalCache(max_items=0)
    with pytest.raises(ValueError, match="ttl must be more than 0"):
        LocalCache(ttl=0)
    with pytest.raises(ValueError, match="ttl must be a finite"):
        LocalCache(ttl=math.inf)
    assert repr(LocalCache(5, 2)) == "<LocalCache max_items=5 ttl=2>"


def test_failed_reads_leave_nothing_behind(run: Run) -> None:
    async def program() -> None:
        class Failing(CountingStore):
            async def get_entry(self, key: str, **options: bool) -> CacheEntry | None:
                await anyio.lowlevel.checkpoint()
                raise OSError("broken")

        local = LocalCache()
        cache = Cache(Failing(), local=local)
        for number in range(10):
            with pytest.raises(OSError, match="broken"):
                await cache.get(f"k{number}")
        readings: Any = local._readings
        assert len(readings) == 0

    run(program)
