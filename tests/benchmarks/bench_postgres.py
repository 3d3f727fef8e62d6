"""What a store on PostgreSQL adds to the bare statements, sent through psycopg as programs do.

Each operation alternates with the statements that do the same by hand, in one run and on a server
that waits for its disk as usual; the table shows the medians, their ratio, the time of this process
alone, and the requests of an operation. Run it from the repository:

    python -m tests.benchmarks.bench_postgres [--rounds 2000] [--check]

``--check`` fails if a ratio is over 1.2 or an operation sends more requests than it should.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import psycopg
from attrs import frozen

from gogoscope.stores.postgres import entries
from gogoscope.stores.postgres.store import PostgresStore
from tests.support.postgres_server import running_postgres

LIMIT = 1.2
WARM_UP = 50
ROUNDS_A_TURN = 20

Call = Callable[[], Awaitable[Any]]


@frozen
class Pair:
    """An operation, the bare statements that do the same, and how many requests it should send."""

    name: str
    operation: Call
    bare: Call
    requests: int


TABLES = """
CREATE TABLE bare_locks
    (key text PRIMARY KEY, owner text, token bigint NOT NULL, until timestamptz);
CREATE TABLE bare_values (key text PRIMARY KEY, value text, until timestamptz);
"""
ACQUIRE = """
INSERT INTO bare_locks AS l VALUES (%s, %s, 1, clock_timestamp() + %s * interval '1 s')
ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, token = l.token + 1, until = excluded.until
WHERE l.owner IS NULL OR l.until < clock_timestamp() RETURNING token
"""
RELEASE = "UPDATE bare_locks SET owner = NULL WHERE key = %s AND owner = %s RETURNING token"
SET = """
INSERT INTO bare_values VALUES (%s, %s, clock_timestamp() + %s * interval '1 s')
ON CONFLICT (key) DO UPDATE SET value = excluded.value, until = excluded.until
"""
GET = "SELECT value FROM bare_values WHERE key = %s AND until > clock_timestamp()"


def pairs(connection: Any, store: PostgresStore) -> list[Pair]:
    """Return the operations, each with its bare statements."""
    numbers = itertools.count()
    value = {"name": "John", "tags": ["a", "b"], "visits": 17}

    async def acquire_and_release() -> None:
        handle = await store.acquire("lock", 30)
        assert handle is not None
        assert await handle.release()

    async def bare_lock() -> None:
        owner = f"{next(numbers):016x}"
        cursor = await connection.execute(ACQUIRE, ("lock", owner, 30))
        assert await cursor.fetchone()
        cursor = await connection.execute(RELEASE, ("lock", owner))
        assert await cursor.fetchone()

    async def set_value() -> None:
        await store.set("user", value, 3600)

    async def bare_set() -> None:
        await connection.execute(SET, ("user", str(value), 3600))

    async def get_value() -> None:
        assert await store.get("user") == value

    async def bare_get() -> None:
        cursor = await connection.execute(GET, ("user",))
        assert await cursor.fetchone()

    return [
        Pair("acquire + release", acquire_and_release, bare_lock, 2),
        Pair("set", set_value, bare_set, 1),
        Pair("get", get_value, bare_get, 1),
    ]


@frozen
class Times:
    """Seconds of a call on the wall, and of this process alone."""

    wall: float
    own: float


async def turn(call: Call) -> Times:
    """Return the times of a call, the mean of a few."""
    wall, own = time.perf_counter(), time.process_time()
    for _ in range(ROUNDS_A_TURN):
        await call()
    end, own_end = time.perf_counter(), time.process_time()
    return Times((end - wall) / ROUNDS_A_TURN, (own_end - own) / ROUNDS_A_TURN)


async def requests_of(pair: Pair, store: PostgresStore) -> float:
    """Return how many requests an operation sends, those that sweep aside."""
    counted = 0
    run = store._client.run

    async def counting(*args: Any, **options: Any) -> Any:
        nonlocal counted
        counted += 1
        return await run(*args, **options)

    setattr(store._client, "run", counting)  # noqa: B010 - the store's own attribute
    for _ in range(100):
        await pair.operation()
    del store._client.run
    return counted / 100


async def measure(url: str, rounds: int, check: bool) -> bool:
    """Print the table; return whether all is within its limits."""
    good = True
    connection: Any = await psycopg.AsyncConnection.connect(
        url, autocommit=True, prepare_threshold=None
    )
    await connection.execute(TABLES)
    async with PostgresStore(url, create=True) as store:
        print(
            f"{'':22}{'store':>10}{'bare':>10}{'ratio':>8}{'own':>10}{'bare':>10}{'requests':>10}"
        )
        for pair in pairs(connection, store):
            for call in (pair.operation, pair.bare):
                for _ in range(WARM_UP):
                    await call()
            ours: list[Times] = []
            bare: list[Times] = []
            gc.collect()
            for _ in range(max(1, rounds // ROUNDS_A_TURN)):
                ours.append(await turn(pair.operation))
                bare.append(await turn(pair.bare))
            ratio = statistics.median(a.wall / b.wall for a, b in zip(ours, bare, strict=True))
            sent = await requests_of(pair, store)
            times = [
                statistics.median(one.wall for one in ours),
                statistics.median(one.wall for one in bare),
            ]
            own = [min(one.own for one in ours), min(one.own for one in bare)]
            print(
                f"{pair.name:22}{times[0] * 1e6:>8.0f}us{times[1] * 1e6:>8.0f}us{ratio:>8.2f}"
                f"{own[0] * 1e6:>8.0f}us{own[1] * 1e6:>8.0f}us{sent:>10.2f}"
            )
            good = good and ratio <= LIMIT and sent <= pair.requests + 3 / entries.WRITES_PER_SWEEP
    await connection.close()
    return good or not check


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with running_postgres(careful=True) as server:
        sys.exit(not anyio.run(measure, server.url, options.rounds, options.check))
