"""What the cache and the stores add to the bare thing, and other libraries beside them.

Each row alternates two things in one run and shows the medians, their ratio, and the most that it
may be. DynamoDB Local, or the engine that the tests use, is needed for its part. Run it from the
repository:

    python -m tests.benchmarks.bench_stores [--rounds 300] [--items 5000]
                                            [--only memory|dynamodb] [--check]

``--check`` fails if a number is over its limit. Other libraries are measured if they are installed
(``pip install 'gogoscope[bench]'``).
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import anyio
from attrs import Factory, define, frozen

from gogoscope import Cache, LocalCache
from gogoscope.stores.memory import MemoryStore
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import open_client
from tests.benchmarks.peers import why_left_out
from tests.benchmarks.replay import Operation, Replay, Request
from tests.support.dynamodb_faults import FaultyClient, Perform
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine

Call = Callable[[], Awaitable[Any]]
SMALL_DICT = {"name": "John", "tags": ["a", "b"], "visits": 17}
KEY = "user:1"
HITS = 300


@frozen
class Pair:
    """Two things to compare: ``calls`` of each make one sample; ``limit`` is for their ratio.

    ``prepare`` is called before both make a sample, and is not timed. ``theirs`` says that ``ours``
    is that of another library, which is named and left out if it breaks.
    """

    name: str
    ours: Call
    bare: Call
    limit: float | None = None
    calls: int = 1
    prepare: Call | None = None
    theirs: bool = False


class Table:
    """Prints rows and remembers whether all were within their limits."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.fine = True

    def head(self, title: str, columns: str) -> None:
        print(f"\n{title}\n{'':<44}{columns}")

    async def compare(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            try:
                ours, bare, ratio = await measure(pair, self._rounds)
            except Exception as error:
                if not pair.theirs:
                    raise
                self.left_out(pair.name, error)
                continue
            shown = f"{pair.name:<44}{ours * 1e6:>9.2f}{bare * 1e6:>9.2f}{ratio:>8.2f}"
            self._row(shown, pair.limit, ratio)

    def figure(self, name: str, value: float, *, most: float = math.inf, least: float = 0) -> None:
        within = least <= value <= most
        self.fine = self.fine and within
        limit = f"at most {most:g}" if most < math.inf else f"at least {least:g}"
        print(f"{name:<44}{value:>9g}   {limit}{'' if within else '  <- missed'}")

    def left_out(self, name: str, error: Exception) -> None:
        print(f"{name:<44}  {why_left_out(error)}")

    def _row(self, shown: str, limit: float | None, ratio: float) -> None:
        within = limit is None or ratio <= limit
        self.fine = self.fine and within
        print(f"{shown}{'' if limit is None else f'{limit:>8g}'}{'' if within else '  <- missed'}")


async def measure(pair: Pair, rounds: int) -> tuple[float, float, float]:
    """Return the medians of both sides, in seconds a call, and of the ratios of the rounds."""
    samples: list[tuple[float, float]] = []
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + rounds // 10 + 1):
            if pair.prepare is not None:
                await pair.prepare()
            if number % 2:
                ours = await seconds_of(pair.ours, pair.calls)
                bare = await seconds_of(pair.bare, pair.calls)
            else:
                bare = await seconds_of(pair.bare, pair.calls)
                ours = await seconds_of(pair.ours, pair.calls)
            samples.append((ours, bare))
    finally:
        gc.enable()
    samples = samples[rounds // 10 + 1 :]
    ours = statistics.median(ours for ours, _ in samples)
    bare = statistics.median(bare for _, bare in samples)
    return ours, bare, ours / bare


async def seconds_of(call: Call, calls: int) -> float:
    """Time some calls; return the seconds of one."""
    start = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - start) / calls


class BareDict:
    """The least that a cache in memory does: a lookup in a dict, with an expiry check."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, float]] = {}

    def set(self, key: str, value: Any, ttl: float) -> None:
        self._values[key] = (value, time.time() + ttl)

    async def get(self, key: str) -> Any:
        found = self._values.get(key)
        if found is None or found[1] <= time.time():
            return None
        return found[0]


async def memory_part(table: Table) -> None:
    """Compare hits in memory."""
    table.head("memory: a hit, against a dict lookup with an expiry check", HEADS)

    for name, value, limit in [
        ("str", "x" * 20, 4),
        ("number", 17, 4),
        ("small dict", SMALL_DICT, 10),
    ]:
        bare = BareDict()
        bare.set(KEY, value, 3600)
        store = MemoryStore()
        await store.set(KEY, value, 3600)
        cache, fronted = Cache(store), Cache(store, local=LocalCache(ttl=3600))
        got = await store.get(KEY)
        assert got == value
        assert not isinstance(value, dict) or got is not value
        hit = functools.partial(bare.get, KEY)
        pairs = [
            Pair(f"gogoscope store, {name}", functools.partial(store.get, KEY), hit, limit, HITS),
            Pair(f"gogoscope cache, {name}", functools.partial(cache.get, KEY), hit, None, HITS),
            Pair(f"gogoscope get_or_set, {name}", loading_hit(cache), hit, None, HITS),
            Pair(f"gogoscope LocalCache, {name}", loading_hit(fronted), hit, None, HITS),
        ]
        await table.compare(pairs)
        for peer, make in PEERS.items():
            shown = f"{peer}, {name}"
            try:
                get = await make(value)
            except Exception as error:
                table.left_out(shown, error)
                continue
            await table.compare([Pair(shown, get, hit, None, HITS, theirs=True)])


def loading_hit(cache: Cache) -> Call:
    """Return a call of ``get_or_set`` that finds the value."""

    async def load() -> Any:
        raise AssertionError("it is a hit")

    return lambda: cache.get_or_set(KEY, load, 60)


async def _cashews(value: Any) -> Call:
    cache: Any = import_module("cashews").Cache()
    cache.setup("mem://")
    await cache.set(KEY, value, expire=3600)
    return lambda: cache.get(KEY)


async def _cashews_get_or_set(value: Any) -> Call:
    cache: Any = import_module("cashews").Cache()
    cache.setup("mem://")
    await cache.set(KEY, value, expire=3600)
    return lambda: cache.get_or_set(KEY, value, expire=60)


async def _aiocache(value: Any) -> Call:
    modules: Any = import_module("aiocache"), import_module("aiocache.serializers")
    cache = modules[0].SimpleMemoryCache(serializer=modules[1].JsonSerializer())
    await cache.set(KEY, value, ttl=3600)
    return lambda: cache.get(KEY)


PEERS = {
    "cashews": _cashews,
    "cashews get_or_set": _cashews_get_or_set,
    "aiocache (JSON)": _aiocache,
}


@define
class Again:
    """Sends the requests of one operation once more, as often as they are shown."""

    replay: Replay
    operation: Operation
    requests: list[Request] = Factory(list)

    async def show(self) -> None:
        self.requests = await self.replay.requests(self.operation, 1)

    async def send(self) -> None:
        await self.replay.send(self.requests)


async def set_value(store: DynamoDBAdapter) -> None:
    await store.set(KEY, SMALL_DICT, 3600)


async def get_value(store: DynamoDBAdapter) -> None:
    assert await store.get(KEY) == SMALL_DICT


async def dynamodb_part(table: Table, endpoint_url: str, items: int) -> None:
    """Compare requests with the raw calls on the same client, and count those of ``clear``."""
    name = new_table_name()
    async with open_client(endpoint_url=endpoint_url) as opened:
        client: Any = opened
        await create_table(client, name)
        store = DynamoDBAdapter(client, name)
        replay = Replay.on(client, name)
        write, read = Again(replay, set_value), Again(replay, get_value)
        for again in (write, read):
            await again.show()
            await again.send()
        table.head("DynamoDB, against the raw call on the same client", HEADS)
        await table.compare(
            [
                Pair("set", lambda: set_value(store), write.send, 1.1, prepare=write.show),
                Pair("get", lambda: get_value(store), read.send, 1.1, prepare=read.show),
            ]
        )
        try:
            peer, text = await _aiocache_dynamodb(client), json.dumps(SMALL_DICT)
        except Exception as error:
            table.left_out("aiocache-dynamodb", error)
        else:
            name_of = "aiocache-dynamodb {}".format
            put, get = (lambda: peer.set(KEY, text, ttl=3600)), (lambda: peer.get(KEY))
            await table.compare(
                [
                    Pair(name_of("set"), put, write.send, prepare=write.show, theirs=True),
                    Pair(name_of("get"), get, read.send, prepare=read.show, theirs=True),
                ]
            )
        await count_clear(table, client, name, items)
        await client.delete_table(TableName=name)


async def _aiocache_dynamodb(client: Any) -> Any:
    made: Any = import_module("aiocache_dynamodb")
    name = new_table_name()
    await client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "cache_key", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "cache_key", "AttributeType": "S"}],
    )
    return made.DynamoDBCache(table_name=name, dynamodb_client=client)


async def count_clear(table: Table, client: Any, name: str, items: int) -> None:
    """Count the requests of clearing a table of many items, and how many are in flight at once."""
    counter = FaultyClient(client)
    store = DynamoDBAdapter(counter, name, key_prefix="big:")
    await store.set_many({f"item:{number}": "x" * 1000 for number in range(items)})
    counter.calls.clear()
    now = most = 0

    async def count(perform: Perform) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            return await perform()
        finally:
            now -= 1

    counter.constant_faults["update_item"] = count
    start = time.perf_counter()
    await store.clear()
    seconds = time.perf_counter() - start
    pages = counter.operations.count("scan")
    print(f"\nclear() of {items:,} items of 1 KB: {seconds:.2f} s, {pages} pages")
    table.figure("requests", len(counter.calls), most=items + pages)
    table.figure("most writes in flight", most, least=8)
    assert await store.keys() == []


HEADS = f"{'us':>9}{'bare us':>9}{'ratio':>8}{'limit':>8}"


async def main(rounds: int, items: int, only: str | None, check: bool) -> bool:
    """Print the tables; tell whether everything is within its limits."""
    table = Table(rounds)
    if only in (None, "memory"):
        await memory_part(table)
    if only in (None, "dynamodb"):
        with running_engine() as engine:
            await dynamodb_part(table, engine.endpoint_url, items)
    return table.fine or not check


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--only", choices=["memory", "dynamodb"])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    program = functools.partial(main, options.rounds, options.items, options.only, options.check)
    sys.exit(not anyio.run(program))
