"""Rules of safety: bad arguments, cancellation, and processes that race."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.testing.conformance.base import Conformance, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere
from gogoscope.testing.conformance.races import race
from gogoscope.testing.conformance.samples import BAD_DURATIONS, BAD_KEYS, BAD_VALUES

Call = Callable[[CacheProvider, Any], Awaitable[object]]

TAKING_A_KEY: dict[str, Call] = {
    "get": lambda store, key: store.get(key),
    "get_entry": lambda store, key: store.get_entry(key),
    "get_many": lambda store, key: store.get_many([key]),
    "set": lambda store, key: store.set(key, 1),
    "set if absent": lambda store, key: store.set(key, 1, if_absent=True),
    "set_many": lambda store, key: store.set_many({key: 1}),
    "touch": lambda store, key: store.touch(key, 1),
    "delete": lambda store, key: store.delete(key),
    "delete_many": lambda store, key: store.delete_many([key]),
    "has": lambda store, key: store.has(key),
}
ALL: dict[str, Call] = {
    **TAKING_A_KEY,
    "keys": lambda store, key: store.keys(),
    "clear": lambda store, key: store.clear(),
}
CHANGES: dict[str, Call] = {
    "set": lambda store, key: store.set(key, {"new": True}),
    "delete": lambda store, key: store.delete(key),
    "clear": lambda store, key: store.clear(),
}


class CacheSafetyRules(Conformance):
    """What a ``CacheProvider`` guarantees when it is misused, cancelled or raced for."""

    async def test_every_method_of_the_cache_refuses_a_bad_key(self, store: CacheProvider) -> None:
        for name, call in TAKING_A_KEY.items():
            for key, error, message in BAD_KEYS:
                with pytest.raises(error, match=message):
                    await call(store, key)
                    pytest.fail(f"{name} took the key {key!r}")

    async def test_a_bad_key_is_refused_below_a_prefix_too(self, open_store: OpenStore) -> None:
        async with open_store() as whole, open_store("a:") as store:
            await whole.set("a:", "the prefix itself")
            for name, call in TAKING_A_KEY.items():
                with pytest.raises(ValueError, match="must not be empty"):
                    await call(store, "")
                    pytest.fail(f"{name} took it")

    @pytest.mark.parametrize(("ttl", "error"), BAD_DURATIONS)
    async def test_a_bad_time_to_live_is_refused(
        self, store: CacheProvider, ttl: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="ttl must be"):
            await store.set("k", 1, ttl)
        if ttl != 0:
            with pytest.raises(error, match="stale must be"):
                await store.set("k", 1, 1, stale=ttl)
        assert await store.keys() == []

    async def test_a_value_may_last_100_years_and_no_longer(self, store: CacheProvider) -> None:
        with pytest.raises(ValueError, match="ttl must be at most"):
            await store.set("k", 1, ttl=1e300)
        assert await store.keys() == []
        await store.set("k", 1, ttl=100 * 365 * 86_400)
        assert await store.get("k") == 1

    @pytest.mark.parametrize(("value", "error", "path"), BAD_VALUES)
    async def test_a_value_that_is_not_json_shaped_is_refused_with_its_path(
        self, store: CacheProvider, value: Any, error: type[Exception], path: str
    ) -> None:
        with pytest.raises(error, match=path):
            await store.set("k", value)
        assert await store.keys() == []

    async def test_a_refused_value_leaves_the_old_one(self, store: CacheProvider) -> None:
        await store.set("k", "old")
        with pytest.raises(TypeError):
            await store.set("k", {"new"})
        assert await store.get("k") == "old"

    async def test_a_value_that_contains_itself_is_refused(self, store: CacheProvider) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(ValueError, match="contains itself"):
            await store.set("k", value)
        assert await store.keys() == []

    @pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
    async def test_a_value_may_be_nested_200_deep_and_no_deeper(
        self, store: CacheProvider, wrap: Callable[[Any], Any]
    ) -> None:
        value: Any = 7
        for _ in range(200):
            value = wrap(value)
        await store.set("k", value)
        found = await store.get("k")
        assert (found == value) is True  # or pytest would compare the two level by level
        for deeper in (1, 500, 2_000):
            for _ in range(deeper):
                value = wrap(value)
            with pytest.raises(ValueError, match="nested more than 200 levels deep"):
                await store.set("k", value)
        assert await store.keys() == ["k"]

    async def test_a_pattern_of_another_type_is_refused(self, store: CacheProvider) -> None:
        not_a_pattern: Any = 7
        with pytest.raises(TypeError, match="pattern must be a str or None, got 7"):
            await store.keys(not_a_pattern)

    @pytest.mark.parametrize("pattern", ["\udcff*", "a\0*"])
    async def test_a_pattern_that_no_key_can_match_is_refused(
        self, store: CacheProvider, pattern: str
    ) -> None:
        with pytest.raises(ValueError, match="pattern must"):
            await store.keys(pattern)
        with pytest.raises(ValueError, match="pattern must"):
            _ = [key async for key in store.iterate_keys(pattern)]

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_cancelled_change_of_a_value_is_whole_or_not_there(
        self, store: CacheProvider, name: str
    ) -> None:
        await store.set("changed", "old")
        await CHANGES[name](store, "changed")
        after = await store.get("changed", "missing")

        async def attempt_at(n: int) -> CancelledAt:
            key = f"k{n}"
            await store.set(key, "old")
            attempt = CancelledAt(CHANGES[name](store, key), n)
            await attempt.run()
            allowed = [after] if attempt.ended else ["old", after]
            value = await store.get(key, "missing")
            assert value in allowed
            listed = key in await store.keys()
            later = await store.get(key, "missing")
            # A request that was cancelled in flight may arrive between two reads, but only once.
            assert later in (value, after)
            assert listed in (value != "missing", later != "missing")
            return attempt

        await cancel_everywhere(attempt_at)

    @pytest.mark.parametrize("name", ["get", "get_entry", "get_many", "has", "keys"])
    async def test_a_cache_works_on_after_a_cancelled_read(
        self, store: CacheProvider, name: str
    ) -> None:
        await store.set("k", [1])
        expected = await ALL[name](store, "k")

        async def attempt_at(n: int) -> CancelledAt:
            attempt = CancelledAt(ALL[name](store, "k"), n)
            await attempt.run()
            assert await store.get("k") == [1]
            if attempt.ended and name != "get_entry":
                assert attempt.result == expected
            return attempt

        await cancel_everywhere(attempt_at)

    @pytest.mark.parametrize("name", ALL)
    async def test_cancelling_a_method_of_the_cache_raises_nothing_else(
        self, store: CacheProvider, name: str
    ) -> None:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await ALL[name](store, "k")
            await anyio.lowlevel.checkpoint()
        assert cancelled.cancelled_caught

    @pytest.mark.usefixtures("atomic")
    def test_of_3_processes_that_set_absent_keys_one_sets_each_key(self, shared_url: str) -> None:
        won = race(shared_url, 3, "set_if_absent", 20, 3)
        assert sorted(key for keys in won for key in keys) == sorted(
            f"key:{number}" for number in range(20)
        )
