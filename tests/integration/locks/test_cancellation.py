"""Cancelling anybody at any time stalls nobody, on real stores."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import open_persistence, scope
from gogoscope.locks.queue import _queues
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = pytest.mark.anyio

LONG = 600
WORKERS = 40


@pytest.fixture(params=SHARED_STORES)
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """Two stores on one place, as two processes would have them."""
    url = shared_store_url(request, tmp_path)
    async with open_persistence(url) as first, open_persistence(url) as second:
        yield first, second


@pytest.mark.parametrize("seed", range(3))
async def test_random_cancellation_stalls_nobody_and_leaves_nothing(
    stores: tuple[Any, Any], seed: int
) -> None:
    chance = random.Random(seed)
    held: list[int] = []
    got = 0

    async def work(s: Any, number: int) -> None:
        nonlocal got
        patience = chance.choice([None, chance.uniform(0, 0.2)])
        with anyio.move_on_after(patience):
            async with s.lock("job", ttl=LONG, wait=chance.choice([None, 0.05, None])):
                held.append(number)
                try:
                    assert len(held) == 1
                    await anyio.sleep(chance.uniform(0, 0.004))
                    got += 1
                finally:
                    held.remove(number)

    async def lenient(s: Any, number: int) -> None:
        try:
            await work(s, number)
        except TimeoutError:
            return

    with anyio.fail_after(20):
        async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
            async with anyio.create_task_group() as group:
                for number in range(WORKERS):
                    group.start_soon(lenient, chance.choice([s, s, t]), number)
                    await anyio.sleep(chance.uniform(0, 0.002))
            async with s.lock("job", ttl=LONG, wait=2):
                pass
    assert got > 0
    assert await stores[0].holder("job") is None
    assert not any(_queues.all())
