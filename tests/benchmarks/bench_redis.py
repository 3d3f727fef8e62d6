"""What the store in Redis adds to the bare scripts, and redis-py's own lock beside it.

Each row alternates two things in one run and shows the medians, their ratio, and the most that it
may be. Run it from the repository; ``redis-server`` is started:

    python -m tests.benchmarks.bench_redis [--rounds 300] [--check]

``--check`` fails if a number is over its limit.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys

import anyio
from redis.asyncio import Redis

from gogoscope.stores.redis.scripts import LOAD, PUT, SWAP
from gogoscope.stores.redis.store import RedisStore
from tests.benchmarks.bench_stores import HEADS, KEY, SMALL_DICT, Pair, Table
from tests.support.redis_faults import FaultyRedis
from tests.support.redis_server import running_redis

LOCK = "x" * 250  # as long as a lock's record
OLDER = ",".join(["0123456789ab"] * 31)
LEFT = 90_000_000
FAR = 2**53
FIRST_NUMBER = 1_800_000_000_000_000


class BareScripts:
    """The scripts of the store's operations, sent by the client's own method for that."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._ids = itertools.count()
        self._last = "."

    async def begin(self) -> None:
        for script in (LOAD, PUT, SWAP):
            await self._client.script_load(script.text)
        await self.set()

    async def acquire_and_release(self) -> None:
        await self._swap(tells=False)
        await self._swap(tells=True)

    async def set(self) -> None:
        n = next(self._ids)
        writer, number, text = f"p{n}", FIRST_NUMBER + n, json.dumps(SMALL_DICT)
        answer = await self._client.evalsha(
            *(PUT.sha, 1, "bare:value", "t", FAR, writer, 0),
            *(self._head(writer, number), LEFT, text, number),
        )
        assert answer[3] == b"done"

    async def get(self) -> None:
        found = await self._client.evalsha(LOAD.sha, 1, "bare:value", "t")
        assert json.loads(found[4].partition(b"\n")[2]) == SMALL_DICT

    async def _swap(self, *, tells: bool) -> None:
        writer = f"{next(self._ids):012x}"
        answer = await self._client.evalsha(
            *(SWAP.sha, 1, "bare:lock", "t", self._last, self._head(writer, FIRST_NUMBER)),
            *(LEFT, LOCK, int(tells)),
        )
        assert answer[3] == b"done"
        self._last = writer

    def _head(self, writer: str, number: int) -> str:
        return f"1 {writer} 1800000000000 {number} {OLDER}"


async def main(rounds: int, check: bool) -> bool:
    """Print the table; tell whether everything is within its limits."""
    table = Table(rounds)
    with running_redis() as server:
        async with Redis.from_url(server.url) as client, RedisStore(server.url) as store:
            bare = BareScripts(client)
            await bare.begin()
            await store.set(KEY, SMALL_DICT, 3600)

            async def acquire_and_release() -> None:
                handle = await store.acquire("lock", 30)
                assert handle is not None
                assert await handle.release()

            async def get() -> None:
                assert await store.get(KEY) == SMALL_DICT

            async def lock_of_the_client() -> None:
                lock = client.lock("their lock", timeout=30)
                assert await lock.acquire()
                await lock.release()

            table.head("Redis, against the bare scripts", HEADS)
            await table.compare(
                [
                    Pair(
                        "acquire + release", acquire_and_release, bare.acquire_and_release, 1.3, 5
                    ),
                    Pair("redis-py's Lock", lock_of_the_client, bare.acquire_and_release, None, 5),
                    Pair("set", lambda: store.set(KEY, SMALL_DICT, 3600), bare.set, 1.3, 5),
                    Pair("get", get, bare.get, 1.3, 5),
                ]
            )
            faulty = FaultyRedis(store)
            await acquire_and_release()
            print()
            table.figure("requests of an acquire and a release", len(faulty.calls), most=2)
    return table.fine or not check


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    sys.exit(not anyio.run(functools.partial(main, options.rounds, options.check)))
