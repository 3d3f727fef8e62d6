"""Rules of keys: any text may be a key, listing is exact, and prefixes separate stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.testing.conformance.base import Conformance, OpenStore
from gogoscope.testing.conformance.samples import ODD_KEYS

CHANGES: dict[str, Callable[[CacheProvider, str], Awaitable[object]]] = {
    "set": lambda store, key: store.set(key, "new"),
    "set if absent": lambda store, key: store.set(key, "new", if_absent=True),
    "set_many": lambda store, key: store.set_many({key: "new"}),
    "touch": lambda store, key: store.touch(key, 30),
    "delete": lambda store, key: store.delete(key),
    "delete_many": lambda store, key: store.delete_many([key]),
}


class CacheKeyRules(Conformance):
    """How a ``CacheProvider`` tells keys apart and lists them."""

    @pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
    async def test_any_text_may_be_a_key(self, store: CacheProvider, key: str) -> None:
        await store.set(key, "value")
        await store.set("plain", "other")
        assert await store.get(key) == "value"
        assert sorted(await store.keys()) == sorted([key, "plain"])
        assert await store.delete(key) is True
        assert await store.keys() == ["plain"]

    @pytest.mark.parametrize(
        "key", [key for key in ODD_KEYS if "*" not in key and "?" not in key], ids=ascii
    )
    async def test_a_pattern_without_wildcards_is_the_key_itself(
        self, store: CacheProvider, key: str
    ) -> None:
        await store.set(key, 1)
        await store.set("plain", 1)
        assert await store.keys(key) == [key]

    async def test_a_pattern_matches_whole_keys(self, store: CacheProvider) -> None:
        for key in ("user:1", "user:22", "superuser:9", "User:1", "user:", "users"):
            await store.set(key, 1)
        assert sorted(await store.keys("user:*")) == ["user:", "user:1", "user:22"]
        assert await store.keys("user:?") == ["user:1"]
        assert sorted(await store.keys("*user:*")) == ["superuser:9", "user:", "user:1", "user:22"]
        assert await store.keys("?ser:1") != []
        assert sorted(await store.keys("?ser:1")) == ["User:1", "user:1"]
        assert await store.keys("user") == []
        assert len(await store.keys("*")) == 6
        assert len(await store.keys()) == 6
        assert await store.keys("") == []

    async def test_the_wildcards_match_a_newline(self, store: CacheProvider) -> None:
        await store.set("a\nb", 1)
        assert await store.keys("a*b") == ["a\nb"]
        assert await store.keys("a?b") == ["a\nb"]

    async def test_other_characters_of_a_pattern_stand_for_themselves(
        self, store: CacheProvider
    ) -> None:
        for key in ("a.c", "abc", "[ab]", "a", "b", "x[1]", "x1"):
            await store.set(key, 1)
        assert await store.keys("a.c") == ["a.c"]
        assert await store.keys("[ab]") == ["[ab]"]
        assert await store.keys("x[1]*") == ["x[1]"]

    async def test_prefixes_separate_stores_and_may_be_nested(self, open_store: OpenStore) -> None:
        async with (
            open_store() as whole,
            open_store("app:") as app,
            open_store("app:eu:") as nested,
            open_store("app2:") as other,
            open_store("a.p:") as dotted,
        ):
            await app.set("k", "app")
            await nested.set("k", "nested")
            await other.set("k", "other")
            assert await app.get("k") == "app"
            assert await app.get("eu:k") == "nested"
            assert await dotted.get("k") is None
            assert sorted(await app.keys()) == ["eu:k", "k"]
            assert await nested.keys() == ["k"]
            assert await other.keys() == ["k"]
            assert await dotted.keys() == []
            assert sorted(await whole.keys()) == ["app2:k", "app:eu:k", "app:k"]
            await app.clear()
            assert await whole.keys() == ["app2:k"]

    async def test_what_is_kept_under_a_prefix_itself_is_no_key_below_it(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as whole, open_store("app:") as app:
            await whole.set("app:", 1)
            assert await app.keys() == []
            assert await app.keys("*") == []
            assert [key async for key in app.iterate_keys()] == []

    @pytest.mark.parametrize(
        ("prefix", "beside"),
        [
            ("a.p:", "axp:"),
            ("(a|b)+.*[x]:", "abx:"),
            ("a*:", "aa:"),
            ("a?|", "ab|"),
            ("%_/", "ab/"),
        ],
    )
    async def test_the_characters_of_a_prefix_stand_for_themselves(
        self, prefix: str, beside: str, open_store: OpenStore
    ) -> None:
        async with open_store(prefix) as store, open_store(beside) as other:
            await store.set("user:1", "mine")
            await other.set("user:1", "theirs")
            assert await store.keys("user:*") == ["user:1"]
            assert await store.get("user:1") == "mine"
            await store.clear()
            assert await store.keys() == []
            assert await other.keys() == ["user:1"]

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_change_of_a_value_leaves_those_beside_it_alone(
        self, beside: tuple[CacheProvider, list[tuple[CacheProvider, str]]], name: str
    ) -> None:
        store, others = beside
        for key in ("as it should", "k"):
            await store.set(key, "old", 60)
        for number, (other, key) in enumerate(others):
            await other.set(key, number, 60)
        before = [await other.get_entry(key) for other, key in others]
        await CHANGES[name](store, "as it should")
        await CHANGES[name](store, "k")
        assert await store.get_entry("k") == await store.get_entry("as it should")
        assert [await other.get_entry(key) for other, key in others] == before

    async def test_a_value_beside_a_key_is_not_found_under_it(
        self, beside: tuple[CacheProvider, list[tuple[CacheProvider, str]]]
    ) -> None:
        store, others = beside
        for other, key in others:
            await other.set(key, "theirs", 60)
        assert await store.get("k", "missing") == "missing"
        assert await store.get_entry("k") is None
        assert await store.get_many(["k"]) == {}
        assert await store.has("k") is False
        assert await store.touch("k", 30) is False
        assert await store.delete("k") is False
        assert await store.set("k", "mine", if_absent=True) is True

    async def test_clear_leaves_locks_and_circuits_alone(self, store: Any) -> None:
        await self._fill_beside(store, "k")
        await store.set("k", 1)
        await store.clear()
        assert await store.keys() == []
        await self._check_beside(store, "k")

    async def test_a_lock_and_a_circuit_breaker_are_not_listed_as_cached_keys(
        self, store: Any
    ) -> None:
        await self._fill_beside(store, "k")
        assert await store.keys() == []
        assert await store.has("k") is False
        assert await store.get("k") is None
        assert await store.delete("k") is False
        await self._check_beside(store, "k")

    async def test_keys_and_clear_cover_all_of_5000_items_and_nothing_else(
        self, open_store: OpenStore
    ) -> None:
        async with open_store("big:") as store, open_store("big2:") as beside:
            text = "x" * 1024
            names = {f"item:{number}" for number in range(5_000)}
            limiter = anyio.CapacityLimiter(40)

            async def fill(name: str) -> None:
                async with limiter:
                    await store.set(name, text)

            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(fill, name)
            await beside.set("item:1", "kept")
            for number in range(5):
                await self._fill_beside(store, f"beside:{number}")
            found = await store.keys()
            assert len(found) == 5_000
            assert set(found) == names
            assert len(await store.keys("item:1*")) == 1_111
            await store.clear()
            assert await store.keys() == []
            assert await beside.get("item:1") == "kept"
            for number in range(5):
                await self._check_beside(store, f"beside:{number}")

    async def test_two_stores_on_the_same_data_share_its_cache(self, open_store: OpenStore) -> None:
        async with open_store() as first, open_store() as second:
            await first.set("k", [1])
            assert await second.get("k") == [1]
            await second.clear()
            assert await first.has("k") is False

    async def _fill_beside(self, store: Any, key: str) -> None:
        """Store a lock and the state of a circuit breaker under a key, if the store keeps them."""
        if "locks" in self.capabilities:
            assert await store.acquire(key, 3600) is not None
        if "circuit_breakers" in self.capabilities:
            assert await store.record_failure(key, 9) == 1

    async def _check_beside(self, store: Any, key: str) -> None:
        if "locks" in self.capabilities:
            assert await store.acquire(key, 3600) is None
        if "circuit_breakers" in self.capabilities:
            assert await store.record_failure(key, 9) == 2
