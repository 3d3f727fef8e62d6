"""What a store on DynamoDB adds to the raw call on the same client.

Each operation alternates with the request that it sends, sent raw, in one run; the table shows
the medians, their ratio, and the requests of an operation. Run it from the repository:

    python -m tests.benchmarks.bench_dynamodb [--rounds 2000] [--check]

``--check`` fails if a ratio is over 1.15 or an operation sends more requests than it should.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from attrs import frozen

from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import DynamoDBClient, open_client
from tests.support.dynamodb_faults import FaultyClient
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine

LIMIT = 1.15
WARM_UP = 50

Call = Callable[[], Awaitable[Any]]


@frozen
class Pair:
    """An operation, the raw requests that do the same, and how many requests it should send."""

    name: str
    operation: Callable[[DynamoDBAdapter], Awaitable[Any]]
    raw: Call
    requests: int


async def pairs(client: DynamoDBClient, table: str) -> list[Pair]:
    """Prepare the operations; the raw requests are those that the adapter sends."""
    value = {"name": "John", "tags": ["a", "b"], "visits": 17}

    async def acquire_and_release(store: DynamoDBAdapter) -> None:
        handle = await store.acquire("lock", 30)
        assert handle is not None
        assert await handle.release()

    async def set_value(store: DynamoDBAdapter) -> None:
        await store.set("user", value, 3600)

    async def get_value(store: DynamoDBAdapter) -> None:
        assert await store.get("user") == value

    async def record_failure(store: DynamoDBAdapter) -> None:
        await store.record_failure("circuit", 1_000_000)

    async def sent_by(operation: Callable[[DynamoDBAdapter], Awaitable[Any]]) -> list[Any]:
        recorder = FaultyClient(client)
        store = DynamoDBAdapter(recorder, table, key_prefix="raw:")
        await operation(store)
        recorder.calls.clear()
        await operation(store)
        return [parameters for _, parameters in recorder.calls]

    acquire, release = await sent_by(acquire_and_release)
    (put,) = await sent_by(set_value)
    (get,) = await sent_by(get_value)
    (count,) = await sent_by(record_failure)
    nonces, names = itertools.count(), itertools.count(int(count_name(count)) + 1)

    async def raw_acquire_and_release() -> None:
        nonce = {"S": f"{next(nonces):016x}"}
        acquire["ExpressionAttributeValues"][":nonce"] = nonce
        acquire["ExpressionAttributeValues"][":lease"]["M"]["nonce"] = nonce
        release["ExpressionAttributeValues"][":nonce"] = nonce
        await client.update_item(**acquire)
        await client.update_item(**release)

    async def raw_record_failure() -> None:
        count["ExpressionAttributeValues"][":now"] = {"N": str(next(names))}
        await client.update_item(**count)

    return [
        Pair("acquire + release", acquire_and_release, raw_acquire_and_release, 2),
        Pair("set", set_value, lambda: client.put_item(**put), 1),
        Pair("get", get_value, lambda: client.get_item(**get), 1),
        Pair("record_failure", record_failure, raw_record_failure, 1),
    ]


def count_name(parameters: dict[str, Any]) -> str:
    """Return the name under which a failure was counted."""
    name: str = parameters["ExpressionAttributeValues"][":now"]["N"]
    return name


async def seconds_of(call: Call) -> float:
    """Time one call."""
    start = time.perf_counter()
    await call()
    return time.perf_counter() - start


async def measure(pair: Pair, store: DynamoDBAdapter, rounds: int) -> tuple[float, float]:
    """Return the medians of an operation and of its raw requests, in seconds."""
    ours: list[float] = []
    raw: list[float] = []
    sides: list[tuple[list[float], Call]] = [
        (ours, lambda: pair.operation(store)),
        (raw, pair.raw),
    ]
    gc.collect()
    gc.disable()
    try:
        for _ in range(WARM_UP + rounds):
            for times, call in sides:
                times.append(await seconds_of(call))
            sides.reverse()
    finally:
        gc.enable()
    return statistics.median(ours[WARM_UP:]), statistics.median(raw[WARM_UP:])


async def main(endpoint_url: str, rounds: int, check: bool) -> bool:
    """Print the table; tell whether everything is within its limits."""
    fine = True
    table = new_table_name()
    async with open_client(endpoint_url=endpoint_url) as client:
        await create_table(client, table)
        store = DynamoDBAdapter(client, table)
        print(f"{'operation':<20}{'store':>10}{'raw':>10}{'ratio':>8}{'requests':>10}")
        for pair in await pairs(client, table):
            await pair.operation(store)
            counter = FaultyClient(client)
            await pair.operation(DynamoDBAdapter(counter, table, key_prefix="raw:"))
            ours, raw = await measure(pair, store, rounds)
            ratio, requests = ours / raw, len(counter.calls)
            within = ratio <= LIMIT and requests == pair.requests
            fine = fine and within
            print(
                f"{pair.name:<20}{ours * 1e6:>7.0f} us{raw * 1e6:>7.0f} us{ratio:>8.3f}"
                f"{requests:>10}{'' if within else '  over its limit'}"
            )
    return fine or not check


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    with running_engine() as engine:
        sys.exit(not anyio.run(main, engine.endpoint_url, options.rounds, options.check))
