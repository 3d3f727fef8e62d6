"""The README of go-go-scope's DynamoDB adapter in Python, on any store.

The original creates a client and an adapter. Here a URL does that:
``dynamodb://my-table?region=us-east-1&key_prefix=myapp:`` is the store of the original's README.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from gogoscope import CircuitBreaker, open_persistence, scope


async def basic_setup(persistence: Any) -> None:
    """Acquire a lock with 30 second TTL, use it, release it."""
    async with scope(persistence=persistence) as s:
        lock = await s.acquire_lock("resource:123", 30)
        if lock is None:
            raise RuntimeError("Could not acquire lock")
        try:
            print("lock       ", lock)
        finally:
            await lock.release()


async def caching(cache: Any) -> None:
    """Use the six methods of the cache."""
    await cache.set("user:123", {"name": "John"}, 60)  # 60 seconds
    user = await cache.get("user:123")
    print("get        ", user)
    exists = await cache.has("user:123")
    print("has        ", exists)
    existed = await cache.delete("user:123")
    print("delete     ", existed)
    await cache.clear()
    keys = await cache.keys()
    print("keys       ", keys)
    await cache.set("user:1", "Ada")
    await cache.set("superuser:9", "Grace")
    pattern_keys = await cache.keys("user:*")
    print("keys user:*", pattern_keys)


async def circuit_breaker(persistence: Any) -> None:
    """Call a function through a circuit breaker whose state is in the store."""
    breaker = CircuitBreaker("quickstart", failure_threshold=5, reset_timeout=30)
    async with scope(persistence=persistence, circuit_breaker=breaker) as s:
        err, result = await s.task(fetch_data)
        print("task       ", (err, result))
        for _ in range(5):
            err, _result = await s.task(fail)
        err, result = await s.task(fetch_data)
        print("then       ", (err, result))
    print("state      ", (await persistence.get_state("quickstart")).state)


async def fetch_data() -> str:
    """Stand for a call to a service."""
    return "data"


async def fail() -> str:
    """Stand for a call to a service that is down."""
    raise ConnectionError("no answer")


async def main(url: str) -> None:
    """Go through the README."""
    if "key_prefix=" not in url:
        url += ("&" if "?" in url else "?") + "key_prefix=myapp:"  # the limit of clear()
    async with open_persistence(url) as persistence:
        await basic_setup(persistence)
        await caching(persistence)
        await circuit_breaker(persistence)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--persistence", metavar="URL", help="default: a temporary SQLite file")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="quickstart-") as folder:
        anyio.run(main, given.persistence or f"sqlite:///{Path(folder) / 'quickstart.db'}")
