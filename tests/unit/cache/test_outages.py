"""A store of which only a part fails: the rest of it is used, and so are stores beside it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import Cache, LockHandle, Persistence, StoreConnectionError
from gogoscope.cache.outages import OUTAGE_SECONDS
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a program in virtual time."""
    return lambda program: VirtualClock().run(program, backend=request.param)


class Failing(MemoryStore):
    """A store whose requests are counted, and of which some fail, by the names of its methods."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = failing
        self.requests: Counter[str] = Counter()

    def _request(self, name: str) -> None:
        self.requests[name] += 1
        if name in self.failing:
            raise StoreConnectionError(f"{name} fails")

    async def get_entry(self, key: str, **options: bool) -> CacheEntry | None:
        self._request("get_entry")
        return await super().get_entry(key, **options)

    async def set(self, *args: Any, **options: Any) -> bool:
        self._request("set")
        return await super().set(*args, **options)

    async def acquire(self, key: str, ttl: Any, owner: str | None = None) -> LockHandle | None:
        self._request("acquire")
        return await super().acquire(key, ttl, owner)


class Source:
    def __init__(self) -> None:
        self.loaded: list[str] = []

    async def load(self, key: str) -> str:
        self.loaded.append(key)
        return key


@pytest.mark.parametrize("failing", ["set", "acquire"])
@pytest.mark.parametrize("times", [1, 5])
def test_what_is_in_the_cache_is_found_while_locks_or_writes_fail(
    run: Run, failing: str, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = Failing(failing), Source()
        await MemoryStore.set(store, "hot", "kept", 60)
        cache = Cache(store)
        for number in range(times):
            await cache.get_or_set(f"cold {number}", source.load, 60, "cold")
            assert await cache.get_or_set("hot", source.load, 60, "hot") == "kept"
        assert source.loaded == ["cold"] * times
        assert store.requests[failing] == 1
        await anyio.sleep(OUTAGE_SECONDS)
        await cache.get_or_set("another", source.load, 60, "cold")
        assert store.requests[failing] == 2

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        run(program)
    assert len(caplog.records) == 1


def test_values_are_kept_while_locks_fail_and_locks_are_used_on_another_cache(run: Run) -> None:
    async def program() -> None:
        store, locks, source = Failing(), Failing("acquire"), Source()
        cache = Cache(Persistence(cache=store, locks=locks))
        for _ in range(3):
            assert await cache.get_or_set("k", source.load, 60, "k") == "k"
        assert source.loaded == ["k"]
        assert await Cache(store).get_or_set("other", source.load, 60, "other") == "other"
        assert (store.requests["acquire"], locks.requests["acquire"]) == (1, 1)

    run(program)


def test_a_store_that_cannot_be_read_is_left_alone_altogether(run: Run) -> None:
    async def program() -> None:
        store, source = Failing("get_entry", "acquire", "set"), Source()
        for _ in range(3):
            assert await Cache(store).get_or_set("k", source.load, 60, "k") == "k"
        assert store.requests == {"get_entry": 1}

    run(program)
