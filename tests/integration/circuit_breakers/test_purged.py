"""A circuit whose item was removed by its time to live, and one that was made anew since."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Scope, open_persistence, scope
from gogoscope.persistence.records.circuit_breakers import CIRCUITS
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = pytest.mark.anyio

BREAKER = CircuitBreaker("payments", failure_threshold=1, reset_timeout=60, refresh_interval=0.05)


@pytest.fixture(params=["memory", *SHARED_STORES])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: Any
) -> AsyncIterator[Any]:
    if request.param == "memory":
        url = f"memory://{tmp_path.name}"
    else:
        url = shared_store_url(request, tmp_path)
    async with open_persistence(url) as opened:
        yield opened


async def purge(store: Any) -> None:
    """Remove the circuit, as time to live does."""
    if isinstance(store, DynamoDBAdapter):
        table = store._table
        await table.client.delete_item(TableName=table.name, Key=store._key("CB#", "payments"))
    else:
        key = store._full_key("payments")
        await store._records.transact(CIRCUITS, key, lambda record, now_ms: (None, None))
    assert await store.get_state("payments") is None


async def until(s: Scope, *, rejected: bool) -> None:
    with anyio.fail_after(20):
        while isinstance((await s.task(fine)).error, CircuitOpenError) != rejected:
            await anyio.sleep(0.01)


async def fine() -> None:
    return


async def test_a_process_follows_an_item_that_was_removed_and_made_anew(store: Any) -> None:
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        await store.force_open("payments")
        for _ in range(5):
            await store.force_close("payments")
        first = await store.force_open("payments")
        await until(s, rejected=True)
        await purge(store)
        await until(s, rejected=False)
        anew = await store.force_open("payments")
        assert anew.version > first.version
        await until(s, rejected=True)
        await purge(store)
        anew = await store.force_close("payments")
        assert anew.version > first.version
        await until(s, rejected=False)


async def test_a_version_of_the_removed_item_resets_nothing_in_the_new_one(store: Any) -> None:
    await store.record_failure("payments", 10)
    old = await store.get_state("payments")
    await purge(store)
    await anyio.sleep(0.002)
    await store.record_failure("payments", 10)
    assert await store.reset_failures("payments", old.version) is None
    assert (await store.get_state("payments")).failure_count == 1


async def test_a_probe_of_the_removed_item_settles_nothing_in_the_new_one(store: Any) -> None:
    for _ in range(2):
        await store.record_failure("payments", 1)
        state = await store.get_state("payments")
        await store.set_state("payments", _over(state))
    assert (await store.claim_probe("payments", "old", 60_000, 1)).granted
    await purge(store)
    await store.record_failure("payments", 1)
    await store.set_state("payments", _over(await store.get_state("payments")))
    assert (await store.claim_probe("payments", "new", 60_000, 1)).granted
    before = await store.get_state("payments")
    for succeeded in (True, False):
        assert (
            await store.settle_probe(
                "payments", "old", succeeded=succeeded, success_threshold=1, open_ms=1_000
            )
            is None
        )
    assert await store.get_state("payments") == before


def _over(state: Any) -> Any:
    from attrs import evolve

    return evolve(state, open_until_ms=1)
