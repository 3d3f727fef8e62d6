"""What is loaded into a cache in the tests, and the stores that it is loaded into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel

from gogoscope import Cache, LockHandle, StoreConnectionError
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.stores.memory import MemoryStore

Run = Callable[[Callable[[], Awaitable[None]]], float]

DOWN = StoreConnectionError("the store is down")


class Source:
    """What is loaded; it counts how often, and how many loads run at once."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.loads = 0
        self.running = 0
        self.most_running = 0
        self.error: Exception | None = None

    async def load(self, *args: Any) -> dict[str, Any]:
        self.loads += 1
        number = self.loads
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await anyio.sleep(self.seconds)
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return {"number": number, "args": list(args)}


class FaultyStore(MemoryStore):
    """A store whose requests are counted and may fail or hang, by the names of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.failures: dict[str, Exception] = {}
        self.hanging = False

    async def _request(self, name: str) -> None:
        self.requests[name] += 1
        await anyio.lowlevel.checkpoint()
        if self.hanging:
            await anyio.sleep_forever()
        if error := self.failures.get(name) or self.failures.get("*"):
            raise error

    async def get_entry(self, key: str, **options: bool) -> CacheEntry | None:
        await self._request("get_entry")
        return await super().get_entry(key, **options)

    async def set(self, key: str, *args: Any, **options: Any) -> bool:
        await self._request("set")
        return await super().set(key, *args, **options)

    async def delete(self, key: str) -> bool:
        await self._request("delete")
        return await super().delete(key)

    async def acquire(self, key: str, ttl: Any, owner: str | None = None) -> LockHandle | None:
        await self._request("acquire")
        return await super().acquire(key, ttl, owner)

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        await self._request("release_lock")
        return await super().release_lock(key, nonce, in_time=in_time)

    async def renew_lock(self, *args: Any, **kwargs: Any) -> Any:
        await self._request("renew_lock")
        return await super().renew_lock(*args, **kwargs)


def beside(store: MemoryStore) -> Cache:
    """Return the cache of what could be another process: it shares nothing but the records."""
    return Cache(store.with_prefix(""))


async def no_lock_is_held(store: MemoryStore, key: str = "k") -> bool:
    return await store.holder(f"get_or_set:{key}") is None
