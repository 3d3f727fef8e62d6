"""How many requests a run and a job cost, counted where each store sends them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gogoscope import LocalCache, Once, scope
from gogoscope.persistence import open_persistence
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores import MemoryStore
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.stores.postgres.entries import PostgresEntries
from gogoscope.stores.redis.requests import Request
from gogoscope.testing import UnpluggableStore
from gogoscope_dynamodb.requests import _Request
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = pytest.mark.anyio

SENDS: dict[str, tuple[type, str]] = {
    "dynamodb": (_Request, "answer"),
    "postgresql": (PostgresClient, "run"),
    "redis": (Request, "run"),
}
"""What every request of a store goes through. SQLite and memory have none: calls are counted."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", *SHARED_STORES])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else shared_store_url(request, tmp_path)


@pytest.fixture
def sent(url: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests that were sent so far."""
    counted: Counter[str] = Counter()
    scheme = url.partition(":")[0]
    if scheme in SENDS:
        owner, name = SENDS[scheme]
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
async def stores(url: str, sent: Counter[str]) -> AsyncIterator[tuple[Any, Any]]:
    """The same store as two processes have it."""
    if url == "memory:":
        memory = MemoryStore()
        yield _counted(memory, sent), _counted(memory, sent)
        return
    async with open_persistence(url) as one, open_persistence(url) as other:
        if url.partition(":")[0] in SENDS:
            for store in (one, other):  # where the first answer tells the time
                await store.read_run("never begun")
            sent.clear()
            yield one, other
        else:
            yield _counted(one, sent), _counted(other, sent)


def _counted(store: object, sent: Counter[str]) -> UnpluggableStore:
    counted = UnpluggableStore(store)
    counted.requests = sent
    return counted


@pytest.fixture
def spent(sent: Counter[str]) -> Callable[[], int]:
    """Return how many requests were sent since the last call."""

    def spent() -> int:
        total = sent.total()
        sent.clear()
        return total

    return spent


async def effect() -> str:
    return "receipt"


async def test_a_first_call_is_two_and_a_duplicate_one_in_any_process(
    stores: tuple[Any, Any], spent: Callable[[], int]
) -> None:
    once = Once("charge", 3_600)
    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        assert await s.call(effect, once=once) == "receipt"
        assert spent() == 2
        for caller in (s, t, t, s):
            assert await caller.call(effect, once=once) == "receipt"
            assert spent() == 1


async def test_a_duplicate_with_a_local_cache_is_none(
    stores: tuple[Any, Any], spent: Callable[[], int]
) -> None:
    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        for caller, first in ((s, 2), (t, 1)):
            once = Once("charge", 3_600, local=LocalCache(10, 3_600))
            assert await caller.call(effect, once=once) == "receipt"
            assert spent() == first
            for _ in range(3):
                assert await caller.call(effect, once=once) == "receipt"
            assert spent() == 0


async def test_a_renewal_is_one(stores: tuple[Any, Any], spent: Callable[[], int]) -> None:
    store, _ = stores
    claim = LockClaim(nonce="n", owner="o", lease_ms=60_000)
    lease = (await store.claim_run("charge", claim)).record.lease
    assert spent() == 1
    for _ in range(3):
        lease = (await store.renew_run("charge", "n", lease.version, 60_000, 0)).record
        assert spent() == 1


async def test_a_job_is_one_to_enter_one_for_each_save_and_one_to_end(
    stores: tuple[Any, Any], spent: Callable[[], int]
) -> None:
    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        async with s.job("import", 0) as job:
            assert spent() == 1
            for n in range(3):
                await job.save(n)
                assert spent() == 1
        assert spent() == 1
        async with t.job("import") as job:
            assert job.finished
            assert spent() == 1
