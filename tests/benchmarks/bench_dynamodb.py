"""What a store on DynamoDB costs, against the same requests on a plain aioboto3 client.

A store opened by URL, one with ``fast=true``, and their requests, sent again on a plain
client, take turns in one run. The tables show the medians of the ratios: of the processor's time of
this process and of the time that passes. A third table compares opening a store by URL in each
``asyncio.run`` with opening a client of a session that is kept. Run it from the repository:

    python -m tests.benchmarks.bench_dynamodb [--rounds 150] [--check]

``--check`` fails if a number is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

import aioboto3  # type: ignore[import-untyped]
import anyio
from attrs import define, field

from gogoscope import open_persistence
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from tests.benchmarks.replay import Operation, Replay
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine

CPU_LIMIT = 0.90
FAST_CPU_LIMIT = 0.60
LATENCY_LIMIT = 1.05
OPENING_LIMIT = 1.3
CALLS = 20
WARM_UP = 5
VALUE = {"name": "John", "tags": ["a", "b"], "visits": 17}


async def acquire_and_release(store: DynamoDBAdapter) -> None:
    handle = await store.acquire("lock", 30)
    assert handle is not None
    assert await handle.release()


async def set_value(store: DynamoDBAdapter) -> None:
    await store.set("user", VALUE, 3600)


async def get_value(store: DynamoDBAdapter) -> None:
    assert await store.get("user") == VALUE


async def record_failure(store: DynamoDBAdapter) -> None:
    await store.record_failure("circuit", 1_000_000)


OPERATIONS: list[tuple[str, Operation, int]] = [
    ("acquire + release", acquire_and_release, 2),
    ("set", set_value, 1),
    ("get", get_value, 1),
    ("record_failure", record_failure, 1),
]


@define
class Sides:
    """The times of what is compared, in seconds: the processor's, and those that passed."""

    cpu: dict[str, list[float]] = field(factory=dict)
    passed: dict[str, list[float]] = field(factory=dict)

    @contextmanager
    def timed(self, side: str) -> Iterator[None]:
        """Time a block as one sample of a side."""
        cpu, passed = time.process_time(), time.perf_counter()
        yield
        self.passed.setdefault(side, []).append(time.perf_counter() - passed)
        self.cpu.setdefault(side, []).append(time.process_time() - cpu)


def ratio(samples: Mapping[str, list[float]], side: str) -> float:
    """Return the median of the ratios of a side to "raw" in each round, but for the first ones."""
    pairs = list(zip(samples[side], samples["raw"], strict=True))
    pairs = pairs[min(WARM_UP, len(pairs) // 2) :]
    return statistics.median(ours / raw for ours, raw in pairs)


async def compare(
    operation: Operation, replay: Replay, stores: Mapping[str, DynamoDBAdapter], rounds: int
) -> Sides:
    """Let the sides take turns with an operation."""
    sides = Sides()
    for request in await replay.requests(operation, 1):  # which make the items
        with suppress(Exception):  # some of them were refused
            await replay.send([request])
    for store in stores.values():
        await operation(store)
    gc.collect()
    gc.disable()
    try:
        for _ in range(min(WARM_UP, rounds) + rounds):
            requests = await replay.requests(operation, CALLS)
            with sides.timed("raw"):
                await replay.send(requests)
            for name, store in stores.items():
                with sides.timed(name):
                    for _ in range(CALLS):
                        await operation(store)
    finally:
        gc.enable()
    return sides


class Report:
    """Prints rows, and remembers whether all were within their limits."""

    fine = True

    def number(self, value: float, limit: float | None = None) -> str:
        """Return how a ratio is shown."""
        within = limit is None or value <= limit
        self.fine = self.fine and within
        return f"{value:>9.3f}{' ' if within else '!'}" + (f"({limit})" if limit else "      ")


async def requests_part(report: Report, endpoint_url: str, rounds: int) -> None:
    """Compare operations with their requests on a plain client."""
    table = new_table_name()
    options = {"endpoint_url": endpoint_url}
    urls = {
        "store": f"dynamodb://{table}?{urlencode(options)}",
        "fast": f"dynamodb://{table}?{urlencode({**options, 'fast': 'true', 'key_prefix': 'f:'})}",
    }
    session: Any = aioboto3.Session()
    async with session.client("dynamodb", **options) as plain:
        await create_table(plain, table)
        async with open_persistence(urls["store"]) as own, open_persistence(urls["fast"]) as fast:
            replay = Replay.on(plain, table)
            print(f"{'':<20}{'raw CPU':>10}{'CPU':>16}{'CPU, fast':>16}", end="")
            print(f"{'latency':>16}{'fast':>16}{'requests':>10}")
            for name, operation, requests in OPERATIONS:
                stores: Any = {"store": own, "fast": fast}
                sides = await compare(operation, replay, stores, rounds)
                raw = statistics.median(sides.cpu["raw"]) / CALLS
                limited = name != "record_failure"
                sent = len(await replay.requests(operation, 1))
                report.fine = report.fine and sent == requests
                print(
                    f"{name:<20}{raw * 1e6:>7.0f} us",
                    report.number(ratio(sides.cpu, "store"), CPU_LIMIT if limited else None),
                    report.number(ratio(sides.cpu, "fast"), FAST_CPU_LIMIT if limited else None),
                    report.number(ratio(sides.passed, "store"), LATENCY_LIMIT),
                    report.number(ratio(sides.passed, "fast"), LATENCY_LIMIT),
                    f"{sent:>8}{'' if sent == requests else '!'}",
                )
        await plain.delete_table(TableName=table)


def opening_part(report: Report, endpoint_url: str, rounds: int) -> None:
    """Compare opening a store in each ``asyncio.run`` with opening a client of one session."""
    table = new_table_name()
    session: Any = aioboto3.Session()

    async def prepare() -> None:
        async with session.client("dynamodb", endpoint_url=endpoint_url) as client:
            await create_table(client, table)

    async def raw() -> None:
        key = {"pk": {"S": "CACHE#user"}, "sk": {"S": "METADATA"}}
        async with session.client("dynamodb", endpoint_url=endpoint_url) as client:
            await client.get_item(TableName=table, Key=key)

    async def store() -> None:
        url = f"dynamodb://{table}?{urlencode({'endpoint_url': endpoint_url})}"
        async with open_persistence(url) as opened:
            await opened.get("user")

    asyncio.run(prepare())
    sides = Sides()
    for _ in range(min(WARM_UP, rounds) + rounds):
        for name, main in (("raw", raw), ("store", store)):
            gc.collect()
            with sides.timed(name):
                asyncio.run(main())
    raw_passed = statistics.median(sides.passed["raw"])
    print(
        f"{'opening and a get':<20}{raw_passed * 1e3:>7.1f} ms",
        f"CPU {report.number(ratio(sides.cpu, 'store'), OPENING_LIMIT)}",
        f"time {report.number(ratio(sides.passed, 'store'), OPENING_LIMIT)}",
    )


def main(endpoint_url: str, rounds: int, check: bool) -> bool:
    """Print the tables; tell whether everything is within its limits."""
    report = Report()
    anyio.run(requests_part, report, endpoint_url, rounds)
    opening_part(report, endpoint_url, max(2, rounds // 3))
    return report.fine or not check


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    with running_engine() as engine:
        sys.exit(not main(engine.endpoint_url, arguments.rounds, arguments.check))
