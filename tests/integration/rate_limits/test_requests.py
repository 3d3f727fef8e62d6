"""How many requests a rate limit costs, counted where each store sends them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import RateLimit, scope
from gogoscope.persistence import open_persistence
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.stores.postgres.entries import PostgresEntries
from gogoscope.stores.redis.requests import Request
from gogoscope_dynamodb.requests import _Request
from tests.support.engines import DYNAMODB
from tests.support.postgres_server import POSTGRES
from tests.support.redis_server import REDIS
from tests.support.shared_stores import shared_store_url

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SENDS: dict[str, tuple[type, str]] = {
    "dynamodb": (_Request, "answer"),
    "postgresql": (PostgresClient, "run"),
    "redis": (Request, "run"),
}
"""What every request of a store goes through."""
COST = 100_000
BURST = 20 * COST
SECOND = 1_000_000
CALLS = 100


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[DYNAMODB, POSTGRES, REDIS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


@pytest.fixture
def sent(url: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests that were sent so far."""
    counted: Counter[str] = Counter()
    owner, name = SENDS[url.partition(":")[0]]
    send = getattr(owner, name)

    async def counting(*args: Any, **options: Any) -> Any:
        counted["requests"] += 1
        return await send(*args, **options)

    monkeypatch.setattr(owner, name, counting)
    # Now and then a write is followed by one that removes what nobody needs any more.
    monkeypatch.setattr(PostgresEntries, "_sweep", _nothing)
    return counted


async def _nothing(entries: object) -> None:
    return


@pytest.fixture
async def stores(url: str, sent: Counter[str]) -> AsyncIterator[list[Any]]:
    """The same store as two processes have it, which have asked something before."""
    async with open_persistence(url) as one, open_persistence(url) as other:
        for store in (one, other):
            await store.read_rate("another")
        sent.clear()
        yield [one, other]


@pytest.fixture
def spent(sent: Counter[str]) -> Callable[[], int]:
    """Return how many requests were sent since the last call."""

    def spent() -> int:
        total = sent.total()
        sent.clear()
        return total

    return spent


async def test_each_is_one_request(stores: list[Any], spent: Callable[[], int]) -> None:
    store, _ = stores
    tat_us = 0
    for wait_us in (0, SECOND, 60 * SECOND):
        for _ in range(3):
            place = await store.reserve_rate("limit", COST, BURST, wait_us)
            assert place.granted
            assert spent() == 1
            tat_us = place.tat_us
    assert await store.return_rate("limit", tat_us, COST)
    assert spent() == 1
    assert (await store.pause_rate("limit", SECOND, BURST)).granted
    assert spent() == 1
    assert not (await store.reserve_rate("limit", COST, BURST, 0)).granted
    assert spent() == 1


async def test_processes_that_wait_make_hardly_more_than_one_a_call(
    stores: list[Any], spent: Callable[[], int]
) -> None:
    limit = RateLimit("waited for", rate=200, burst=5)

    async def work(store: Any) -> None:
        async with scope(persistence=store) as s:

            async def call() -> None:
                for _ in range(CALLS // 4):
                    await limit.call(anyio.sleep, 0)

            for _ in range(2):
                s.task(call)

    async with anyio.create_task_group() as group:
        for store in stores:
            group.start_soon(work, store)
    assert spent() <= 1.05 * CALLS


async def test_batches_make_a_tenth_for_a_busy_process(
    stores: list[Any], spent: Callable[[], int]
) -> None:
    limit = RateLimit("used a lot", rate=400, burst=40, batch="auto")

    async def work(store: Any, calls: int) -> None:
        async with scope(persistence=store) as s:

            async def call() -> None:
                for _ in range(calls // 4):
                    await limit.call(anyio.sleep, 0.04)

            for _ in range(4):
                s.task(call)

    async def both_work(calls: int) -> None:
        async with anyio.create_task_group() as group:
            for store in stores:
                group.start_soon(work, store, calls)

    await both_work(CALLS)  # they begin with single places
    spent()
    await both_work(2 * CALLS)
    # A busy machine calls less often, so its batches are smaller; the unit tests of batches judge
    # the number, 0.15, in virtual time. Here it is about 0.12.
    assert spent() <= 0.3 * 4 * CALLS
