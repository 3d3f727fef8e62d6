"""Rules of methods of many keys, of setting absent keys, of touching, and of iterating."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere
from gogoscope.testing.conformance.samples import ODD_KEYS

CHANGES: dict[str, Callable[[CacheProvider, str], Awaitable[object]]] = {
    "set if absent": lambda store, key: store.set(f"{key}:new", 1, if_absent=True),
    "set_many": lambda store, key: store.set_many({f"{key}:new": 1}),
    "delete_many": lambda store, key: store.delete_many([f"{key}:old"]),
    "touch": lambda store, key: store.touch(f"{key}:old"),
}


async def everything(store: CacheProvider, key: str) -> Any:
    old, new = await store.get_entry(f"{key}:old"), await store.get(f"{key}:new", "missing")
    return old and (old.value, old.until_ms), new


class CacheBatchRules(Conformance):
    """What a ``CacheProvider`` does besides getting and setting one value."""

    async def test_get_many_returns_the_keys_that_have_a_value(self, store: CacheProvider) -> None:
        await store.set("a", 1)
        await store.set("none", None)
        await store.set("b", {"tags": [1.5]})
        found = await store.get_many(["a", "missing", "b", "a", "none"])
        assert found == {"a": 1, "b": {"tags": [1.5]}, "none": None}
        assert await store.get_many([]) == {}
        assert await store.get_many(key for key in ("b",)) == {"b": {"tags": [1.5]}}

    async def test_get_many_returns_no_expired_value(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set_many({"short": 1}, ttl=1)
        await store.set_many({"long": 2}, ttl=3)
        await store.set("ever", 3)
        clock.now += 2
        assert await store.get_many(["short", "long", "ever"]) == {"long": 2, "ever": 3}

    async def test_changing_what_get_many_returned_does_not_change_the_cache(
        self, store: CacheProvider
    ) -> None:
        await store.set_many({"k": {"tags": []}})
        found = await store.get_many(["k"])
        found["k"]["tags"].append("mine")
        assert await store.get("k") == {"tags": []}

    async def test_set_many_replaces_values_and_their_ends(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set("a", "old", ttl=1)
        await store.set_many({"a": "new", "b": None})
        clock.now += 1_000_000
        assert await store.get_many(["a", "b"]) == {"a": "new", "b": None}
        await store.set_many({"a": "short"}, ttl=0.25)
        clock.now += 0.249
        assert await store.get("a") == "short"
        clock.now += 0.002
        assert await store.has("a") is False
        await store.set_many({})

    async def test_delete_many_removes_keys_and_ignores_missing_ones(
        self, store: CacheProvider
    ) -> None:
        await store.set_many({"a": 1, "b": 2, "c": 3})
        await store.delete_many(["a", "missing", "c", "a"])
        assert await store.keys() == ["b"]
        await store.delete_many([])

    async def test_batches_of_any_size_and_any_key_are_carried_out(
        self, store: CacheProvider
    ) -> None:
        values = {f"item:{number}": number for number in range(230)}
        values |= {key: len(key) for key in ODD_KEYS}
        await store.set_many(values)
        assert await store.get_many(values) == values
        assert sorted(await store.keys()) == sorted(values)
        await store.delete_many(list(values)[:-1])
        assert await store.keys() == ["k" * 1024]

    async def test_a_bad_value_or_key_in_a_batch_changes_nothing(
        self, store: CacheProvider
    ) -> None:
        with pytest.raises(TypeError, match=r"value\['x'\]"):
            await store.set_many({"good": 1, "bad": {"x": (1,)}})
        with pytest.raises(ValueError, match="key must not be empty"):
            await store.set_many({"good": 1, "": 2})
        with pytest.raises(ValueError, match="ttl must be more than 0"):
            await store.set_many({"good": 1}, ttl=0)
        not_a_mapping: Any = [("good", 1)]
        with pytest.raises(TypeError, match="values must be a mapping"):
            await store.set_many(not_a_mapping)
        assert await store.keys() == []
        await store.set("kept", 1)
        bad: Any = ["kept", 7]
        for call in (store.get_many, store.delete_many):
            with pytest.raises(TypeError, match="key must be a str, got 7"):
                await call(bad)
            with pytest.raises(TypeError, match=r"write \['kept'\]"):
                await call("kept")
        assert await store.keys() == ["kept"]

    async def test_batches_stay_within_their_prefix(self, open_store: OpenStore) -> None:
        async with open_store("app:") as app, open_store("app:eu:") as nested:
            await app.set_many({"k": 1, "eu:k": 2})
            assert await nested.get_many(["k"]) == {"k": 2}
            await nested.delete_many(["k"])
            assert await app.get_many(["k", "eu:k"]) == {"k": 1}

    async def test_if_absent_sets_only_a_key_that_has_no_value(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        assert await store.set("k", 1, ttl=1, if_absent=True) is True
        assert await store.set("k", 2, if_absent=True) is False
        assert await store.get("k") == 1
        clock.now += 0.999
        assert await store.set("k", 2, if_absent=True) is False
        clock.now += 0.002
        assert await store.set("k", 3, if_absent=True) is True
        clock.now += 1_000_000
        assert await store.get("k") == 3
        await store.set("none", None)
        assert await store.set("none", 1, if_absent=True) is False
        assert await store.set("k", 4) is True

    async def test_one_of_many_callers_sets_an_absent_key(self, store: CacheProvider) -> None:
        won: list[int] = []

        async def contend(number: int) -> None:
            if await store.set("k", number, if_absent=True):
                won.append(number)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(contend, number)
        assert len(won) == 1
        assert await store.get("k") == won[0]

    async def test_touch_moves_the_end_of_a_value(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set("k", [1], ttl=1)
        assert await store.touch("k", 5) is True
        clock.now += 4.999
        assert await store.get("k") == [1]
        assert await store.touch("k") is True
        clock.now += 1_000_000
        assert await store.get("k") == [1]
        assert await store.touch("k", 0.25) is True
        clock.now += 0.251
        assert await store.has("k") is False

    async def test_touch_brings_back_no_value_that_has_ended(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        assert await store.touch("k", 5) is False
        assert await store.touch("k") is False
        await store.set("k", 1, ttl=1)
        clock.now += 2
        assert await store.touch("k", 5) is False
        assert await store.touch("k") is False
        assert await store.has("k") is False
        with pytest.raises(ValueError, match="ttl must be more than 0"):
            await store.touch("k", -1)

    async def test_an_entry_says_when_its_value_ends(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        assert await store.get_entry("k") is None
        await store.set("k", {"a": 1}, ttl=2)
        clock.now += 0.5
        for latest in (False, True):
            entry = await store.get_entry("k", latest=latest)
            assert entry is not None
            assert entry.value == {"a": 1}
            assert entry.until_ms == 1_800_000_002_000
            assert entry.left == pytest.approx(1.5)
        clock.now += 1.501
        assert await store.get_entry("k") is None
        await store.set("k", None)
        entry = await store.get_entry("k")
        assert entry is not None
        assert (entry.value, entry.until_ms, entry.left) == (None, None, math.inf)

    async def test_iterating_returns_each_key_once(
        self, store: CacheProvider, clock: ManualClock
    ) -> None:
        await store.set("expired", 1, ttl=1)
        clock.now += 2
        names = {f"item:{number}" for number in range(1_100)}
        await store.set_many(dict.fromkeys(names, 1))
        await store.set_many(dict.fromkeys(ODD_KEYS, 1))
        listed = [key async for key in store.iterate_keys()]
        assert sorted(listed) == sorted([*names, *ODD_KEYS])
        assert len([key async for key in store.iterate_keys("item:1*")]) == 211
        assert [key async for key in store.iterate_keys("item:7")] == ["item:7"]
        assert [key async for key in store.iterate_keys("nothing:*")] == []

    async def test_iterating_stays_within_the_prefix_and_may_stop_early(
        self, open_store: OpenStore
    ) -> None:
        async with open_store("app:") as app, open_store("app2:") as other:
            await app.set_many({"a": 1, "b": 2})
            await other.set("c", 3)
            async for key in app.iterate_keys():
                assert key in ("a", "b")
                break
            assert sorted([key async for key in app.iterate_keys()]) == ["a", "b"]

    async def test_iterating_goes_on_while_keys_are_removed(self, store: CacheProvider) -> None:
        await store.set_many({f"item:{number}": 1 for number in range(1_050)})
        seen = 0
        async for key in store.iterate_keys():
            seen += 1
            if seen <= 20:
                await store.delete(key)
        assert seen == 1_050
        assert len(await store.keys()) == 1_030

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_cancelled_batch_of_one_or_touch_is_whole_or_not_there(
        self, store: CacheProvider, name: str
    ) -> None:
        async def prepared(key: str) -> Any:
            await store.set(f"{key}:old", 7, ttl=60)
            return await everything(store, key)

        before = await prepared("changed")
        await CHANGES[name](store, "changed")
        after = await everything(store, "changed")
        assert before != after

        async def attempt_at(n: int) -> CancelledAt:
            key = f"k{n}"
            await prepared(key)
            attempt = CancelledAt(CHANGES[name](store, key), n)
            await attempt.run()
            allowed = [after] if attempt.ended else [before, after]
            assert await everything(store, key) in allowed
            return attempt

        await cancel_everywhere(attempt_at)
