"""Rules of values: get returns what was set, unchanged, until its time is over."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock
from gogoscope.testing.conformance.samples import EDGE_VALUES, json_values, sampled

EXAMPLES = 40


def alike(left: Any, right: Any) -> bool:
    """Return whether two values are equal and of the same types throughout."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)


class CacheValueRules(Conformance):
    """How a ``CacheProvider`` keeps values."""

    async def test_get_returns_what_was_set(self, store: CacheProvider) -> None:
        await store.set("user:1", {"name": "Ann", "tags": ["a", "b"], "score": 1.5})
        assert await store.get("user:1") == {"name": "Ann", "tags": ["a", "b"], "score": 1.5}

    async def test_a_later_set_replaces_value_and_expiry(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set("k", 1, ttl=1)
        await store.set("k", 2)
        clock.now += 1_000_000
        assert await store.get("k") == 2
        await store.set("k", 3, ttl=1)
        clock.now += 2
        assert await store.get("k") is None

    async def test_get_returns_the_default_for_a_missing_key(self, store: CacheProvider) -> None:
        assert await store.get("k") is None
        assert await store.get("k", 7) == 7
        assert await store.has("k") is False

    async def test_none_is_a_value_and_not_a_missing_key(self, store: CacheProvider) -> None:
        await store.set("k", None)
        assert await store.get("k", "default") is None
        assert await store.has("k") is True
        assert await store.keys() == ["k"]
        assert await store.delete("k") is True

    async def test_delete_returns_whether_there_was_a_value(self, store: CacheProvider) -> None:
        await store.set("k", 1)
        assert await store.delete("k") is True
        assert await store.delete("k") is False
        assert await store.has("k") is False

    async def test_a_value_ends_to_the_millisecond(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        begin = clock.now
        await store.set("k", 1, ttl=0.25)
        clock.now = begin + 0.249
        assert await store.get("k") == 1
        assert await store.has("k") is True
        assert await store.keys() == ["k"]
        clock.now = begin + 0.251
        assert await store.get("k", "gone") == "gone"
        assert await store.has("k") is False
        assert await store.keys() == []

    async def test_a_value_kept_beyond_its_time_is_returned_only_on_request(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set("k", [1], ttl=10, stale=5)
        clock.now += 9.5
        assert await store.get("k") == [1]
        for stale in (False, True):
            entry = await store.get_entry("k", stale=stale)
            assert entry is not None
            assert (entry.value, entry.until_ms) == ([1], 1_800_000_010_000)
            assert entry.left == pytest.approx(0.5)
        for seconds in (0.5, 4.499):
            clock.now += seconds
            assert await store.get("k", "gone") == "gone"
            assert await store.get_entry("k") is None
            assert await store.get_many(["k"]) == {}
            assert await store.has("k") is False
            assert await store.touch("k", 60) is False
        for latest in (False, True):
            entry = await store.get_entry("k", latest=latest, stale=True)
            assert entry is not None
            assert (entry.value, entry.until_ms) == ([1], 1_800_000_010_000)
            assert entry.left == pytest.approx(-4.499)
        clock.now += 0.501
        assert await store.get_entry("k", stale=True) is None
        assert await store.keys() == []

    async def test_every_change_of_a_key_replaces_a_value_kept_beyond_its_time(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        for key in ("set", "absent", "many", "deleted", "all deleted", "touched"):
            await store.set(key, "old", ttl=1, stale=60)
        clock.now += 0.5
        assert await store.touch("touched", 1) is True
        clock.now += 1
        await store.set("set", "new", ttl=1)
        assert await store.set("absent", "new", ttl=1, if_absent=True) is True
        await store.set_many({"many": "new"}, ttl=1)
        assert await store.delete("deleted") is False
        await store.delete_many(["all deleted"])
        assert await store.get_many(["set", "absent", "many"]) == dict.fromkeys(
            ("set", "absent", "many"), "new"
        )
        clock.now += 2
        for key in ("set", "absent", "many", "deleted", "all deleted"):
            assert await store.get_entry(key, stale=True) is None, key
        await store.set("ever", 1, stale=60)
        clock.now += 1_000_000
        entry = await store.get_entry("ever", stale=True)
        assert entry is not None
        assert (entry.value, entry.until_ms, entry.left) == (1, None, math.inf)

    async def test_an_expired_value_cannot_be_deleted(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set("k", 1, ttl=1)
        clock.now += 2
        assert await store.delete("k") is False

    async def test_the_ttl_of_a_value_may_be_a_timedelta(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set("k", 1, ttl=timedelta(minutes=1))
        clock.now += 59
        assert await store.has("k")
        clock.now += 2
        assert not await store.has("k")

    @sampled("value", EDGE_VALUES, json_values, EXAMPLES)
    async def test_values_come_back_equal_and_of_the_same_types(
        self, store: CacheProvider, value: Any
    ) -> None:
        await store.set("k", value)
        got = await store.get("k", "missing")
        assert alike(got, value)

    @pytest.mark.parametrize("value", EDGE_VALUES, ids=repr)
    async def test_extreme_values_come_back_unchanged(
        self, store: CacheProvider, value: Any
    ) -> None:
        await store.set("k", [value])
        assert alike(await store.get("k"), [value])

    async def test_changing_what_get_returned_or_set_took_does_not_change_the_cache(
        self, store: CacheProvider
    ) -> None:
        value = {"tags": ["a"]}
        await store.set("k", value)
        value["tags"].append("b")
        got = await store.get("k")
        assert got == {"tags": ["a"]}
        got["tags"].append("c")
        assert await store.get("k") == {"tags": ["a"]}
