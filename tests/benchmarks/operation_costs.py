"""What each operation costs on each store that is a server: requests, and units on DynamoDB.

Nothing is timed: requests are counted where each store sends them, and DynamoDB tells the units
that it has consumed. The table of the page ``docs/pages/costs.md`` is made by this program, and a
test holds the page to it. Run it from the repository; all servers are started:

    python -m tests.benchmarks.operation_costs [--write]

``--write`` puts the table into the page.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from attrs import define

from gogoscope import Cache, CircuitBreaker, LocalCache, Once, RateLimit, open_persistence, scope
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.stores.postgres.entries import PostgresEntries
from gogoscope.stores.redis.requests import Request
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import open_client
from gogoscope_dynamodb.requests import _Request
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine
from tests.support.postgres_server import running_postgres
from tests.support.redis_server import running_redis

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pages" / "costs.md"
TABLE = re.compile(r"(?<=<!-- costs -->\n\n).*?(?=\n\n<!-- /costs -->)", re.DOTALL)
SENDS: tuple[tuple[type, str], ...] = (
    (_Request, "answer"),
    (PostgresClient, "run"),
    (Request, "run"),
)
"""What every request of a store goes through."""
READS = {"get_item", "batch_get_item", "scan"}
CALLS, KEYS = 1_000, 100

Costs = dict[str, str]


@define
class Meter:
    """What was consumed since it was last read."""

    requests: int = 0
    read_units: float = 0
    write_units: float = 0

    def read(self) -> str:
        """Return the requests, and the units if there are any, and begin anew."""
        units = [
            f"{number:g} {name}"
            for number, name in ((self.read_units, "RU"), (self.write_units, "WU"))
            if number
        ]
        told = f"{self.requests}" + (f" ({', '.join(units)})" if units else "")
        self.requests, self.read_units, self.write_units = 0, 0, 0
        return told


class UnitsClient:
    """A client of DynamoDB that asks each answer for what it has consumed."""

    def __init__(self, client: Any, meter: Meter) -> None:
        self._client = client
        self._meter = meter

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        send = getattr(self._client, operation)

        async def metered(**parameters: Any) -> Any:
            answer = await send(**parameters, ReturnConsumedCapacity="TOTAL")
            told = answer.get("ConsumedCapacity", [])
            used = sum(one["CapacityUnits"] for one in (told if isinstance(told, list) else [told]))
            if operation in READS:
                self._meter.read_units += used
            else:
                self._meter.write_units += used
            return answer

        return metered


@contextmanager
def counted(meter: Meter) -> Iterator[None]:
    """Count every request of every store."""
    kept = [(owner, name, getattr(owner, name)) for owner, name in SENDS]

    def counting(send: Callable[..., Any]) -> Callable[..., Any]:
        async def sent(*args: Any, **options: Any) -> Any:
            meter.requests += 1
            return await send(*args, **options)

        return sent

    async def nothing(entries: object) -> None:
        return

    sweep = PostgresEntries._sweep
    try:
        for owner, name, send in kept:
            setattr(owner, name, counting(send))
        # One write in 64 is followed by one that removes what nobody needs any more.
        PostgresEntries._sweep = nothing  # type: ignore[method-assign,assignment]
        yield
    finally:
        for owner, name, send in kept:
            setattr(owner, name, send)
        PostgresEntries._sweep = sweep  # type: ignore[method-assign]


async def answer() -> str:
    return "receipt"


async def fail() -> None:
    raise ConnectionError


async def costs_of(store: Any, meter: Meter) -> Costs:
    """Return what each operation has cost on an open store."""
    await _walk(store, meter, "warm up ")
    return await _walk(store, meter, "")


async def _walk(store: Any, meter: Meter, key: str) -> Costs:
    costs: Costs = {}

    def tell(operation: str) -> None:
        costs[operation] = meter.read()

    meter.read()
    async with scope(persistence=store) as s:
        await _locks(s, store, tell, key)
        await _circuits(s, tell, key)
        await _values(s, store, tell, key)
        await _runs_and_jobs(s, tell, key)
        await RateLimit(f"{key}calls", rate=1000, burst=100).call(answer)
        tell("a call under a rate limit")
    return costs


async def _locks(s: Any, store: Any, tell: Callable[[str], None], key: str) -> None:
    async with s.lock(f"{key}order") as locked:
        tell("take a lock that is free")
        locked.ensure()
        tell("`locked.ensure()`")
        assert await s.acquire_lock(f"{key}order", 30) is None
        tell("ask for a lock that somebody holds, with `wait=0`")
    tell("release a lock")
    handle = await store.acquire(f"{key}lease", 30)
    tell("`acquire_lock`")
    await handle.extend(30)
    tell("renew a lock (at a third of its lease)")
    await handle.release()
    tell("release a handle")
    asked, begun = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group, s.lock(f"{key}queue"):

        async def wait() -> None:
            asked.set()
            async with s.lock(f"{key}queue"):
                begun.set()

        group.start_soon(wait)
        await asked.wait()
        await anyio.sleep(0.05)
        tell("-")
    await begun.wait()
    tell("hand a lock over to a waiter of the same process, and release it there")
    async with s.semaphore(f"{key}licences", 3):
        tell("take a permit of a semaphore, or a read or write lock")
    tell("release the permit")


async def _circuits(s: Any, tell: Callable[[str], None], key: str) -> None:
    breaker = CircuitBreaker(f"{key}payments", failure_threshold=3, refresh_interval=3600)
    await s.call(answer, circuit_breaker=breaker)
    tell("the first call of a process through a circuit")
    for _ in range(CALLS):
        await s.call(answer, circuit_breaker=breaker)
    tell(f"{CALLS:,} calls through a closed circuit")
    for failure in ("the first failure of a circuit", "a further failure"):
        async with s.child() as child:  # the end of a scope waits until its failures are sent
            error, _ = await child.task(fail, circuit_breaker=breaker)
            assert error
        tell(failure)


async def _values(s: Any, store: Any, tell: Callable[[str], None], key: str) -> None:
    await s.cache.set(f"{key}a", 1, ttl=60)
    tell("`cache.set`")
    await s.cache.get(f"{key}a")
    tell("`cache.get`")
    await s.cache.get_or_set(f"{key}a", answer, 60)
    tell("`get_or_set` of a value that is there")
    await s.cache.get_or_set(f"{key}b", answer, 60)
    tell("`get_or_set` of a value that is missing")
    await s.cache.delete(f"{key}a")
    tell("`cache.delete`")
    near = Cache(store, local=LocalCache(max_items=10, ttl=60))
    await near.get(f"{key}b")
    tell("-")
    await near.get(f"{key}b")
    tell("`cache.get` of a value that a `LocalCache` has")
    await store.set_many({f"{key}many:{number}": number for number in range(KEYS)}, 60)
    tell(f"`set_many` of {KEYS} values")
    await store.get_many([f"{key}many:{number}" for number in range(KEYS)])
    tell(f"`get_many` of {KEYS} values")


async def _runs_and_jobs(s: Any, tell: Callable[[str], None], key: str) -> None:
    once = Once(f"{key}charge", keep=3600)
    await s.call(answer, once=once)
    tell("the first call with `once=`")
    await s.call(answer, once=once)
    tell("a later call with the same key")
    near = Once(f"{key}charge", keep=3600, local=LocalCache(max_items=10, ttl=60))
    await s.call(answer, once=near)
    tell("-")
    await s.call(answer, once=near)
    tell("a later call whose result a `LocalCache` has")
    async with s.job(f"{key}import", state=0) as job:
        tell("enter a job")
        await job.save(1)
        tell("`job.save`")
    tell("end a job")


@asynccontextmanager
async def dynamodb(endpoint_url: str, meter: Meter) -> AsyncIterator[DynamoDBAdapter]:
    """Open a store that counts its units, on a table of its own."""
    async with open_client(None, endpoint_url) as client:
        name = new_table_name()
        await create_table(client, name)
        metered: Any = UnitsClient(client, meter)
        yield DynamoDBAdapter(metered, name)


async def measure_dynamodb(endpoint_url: str) -> Costs:
    meter = Meter()
    with counted(meter):
        async with dynamodb(endpoint_url, meter) as store:
            return await costs_of(store, meter)


async def measure_url(url: str) -> Costs:
    meter = Meter()
    with counted(meter):
        async with open_persistence(url) as store:
            return await costs_of(store, meter)


def table_of(columns: Mapping[str, Costs]) -> str:
    """Return the table as the page has it."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    (first, *_) = columns.values()
    lines += [
        f"| {operation} | {' | '.join(costs[operation] for costs in columns.values())} |"
        for operation in first
        if operation != "-"
    ]
    return "\n".join(lines)


def main(write: bool) -> None:
    """Measure all stores and print the table, or write it into the page."""
    os.environ.update({k: v for k, v in DUMMY_CREDENTIALS.items() if k not in os.environ})
    with running_engine() as engine, running_redis() as redis, running_postgres() as postgres:
        if not engine.atomic:
            sys.exit("this needs DynamoDB Local: name its folder in DYNAMODB_LOCAL_HOME")
        table = table_of(
            {
                "DynamoDB": anyio.run(measure_dynamodb, engine.endpoint_url),
                "Redis": anyio.run(measure_url, redis.url),
                "PostgreSQL": anyio.run(measure_url, f"{postgres.url}?create=true"),
            }
        )
    print(table)
    if write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(TABLE.sub(lambda _: table, page), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    main(parser.parse_args().write)
