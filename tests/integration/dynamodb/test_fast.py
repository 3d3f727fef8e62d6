"""A store with ``fast=true`` behaves as one without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from gogoscope import scope
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.dynamodb_faults import LossyProxy
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio


@pytest.fixture
async def proxy(on_asyncio: None, dynamodb_engine: Engine) -> AsyncIterator[LossyProxy]:
    if dynamodb_engine.endpoint_url.startswith("https"):
        pytest.skip("the proxy does not speak TLS")
    proxy = LossyProxy(dynamodb_engine.endpoint_url)
    async with proxy.running():
        yield proxy


@pytest.fixture
async def store(
    proxy: LossyProxy, dynamodb_table: str, anyio_backend: Any
) -> AsyncIterator[DynamoDBAdapter]:
    async with DynamoDBAdapter(
        None, dynamodb_table, endpoint_url=proxy.url, request_timeout=5, fast=True
    ) as store:
        yield store


async def test_every_capability_works_in_a_scope(store: DynamoDBAdapter) -> None:
    async with scope(persistence=store) as s:
        async with s.lock("k", ttl=5) as locked:
            token = locked.fencing_token
            assert await s.acquire_lock("k", ttl=5, wait=0) is None
            holder = await store.holder("k")
            assert holder is not None
            assert holder.fencing_token == token
        await s.cache.set("v", {"naïve": [1, None, "€ \\ \" ' \0"]}, ttl=60)
        assert await s.cache.get("v") == {"naïve": [1, None, "€ \\ \" ' \0"]}
        await s.cache.set_many({f"k{number}": number for number in range(30)})
        assert len(await s.cache.keys()) == 31
        assert await s.cache.delete("v") is True
        assert await s.cache.get("v") is None
    for count in (1, 2):
        assert await store.record_failure("c", 10) == count


async def test_one_of_many_gets_a_lock(atomic_dynamodb: Engine, store: DynamoDBAdapter) -> None:
    got = []

    async def claim() -> None:
        got.append(await store.acquire("k", 30))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(claim)
    assert sum(handle is not None for handle in got) == 1


async def test_what_was_applied_is_recognised_when_its_answer_was_lost(
    store: DynamoDBAdapter, proxy: LossyProxy
) -> None:
    proxy.drops = 1
    handle = await store.acquire("k", 60)
    assert handle is not None
    proxy.drops = 1
    assert await handle.release() is True
    proxy.drops = 1
    assert await store.set("v", 1, if_absent=True) is True
    await store.record_failure("c", 10)
    proxy.drops = 1
    assert await store.record_failure("c", 10) == 2
    assert proxy.drops == 0
