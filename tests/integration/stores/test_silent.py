"""Servers that fall silent: every caller has its error in time, however many there are."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import StoreConnectionError, StoreTimeoutError, open_persistence
from gogoscope_dynamodb import batches, scan
from tests.support.shared_stores import SHARED_STORES, shared_store_url
from tests.support.tunnel import Tunnel, through

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CALLERS = 400
REQUEST_TIMEOUT = 1.0
BOUND = 3 * REQUEST_TIMEOUT
"""What the README says of a store that does not answer."""
TAKING_BACK = 5.0
"""And how much longer a claim may take, which is taken back."""
LATE = 3.0
"""How much longer a loaded machine may take. Callers that queued would take ten bounds."""

CALLS: list[Callable[[Any, str], Awaitable[Any]]] = [
    lambda store, key: store.get(key),
    lambda store, key: store.get_many([key, key + "2"]),
    lambda store, key: store.set(key, 1),
    lambda store, key: store.set(key, 1, if_absent=True),
    lambda store, key: store.set_many({key: 1, key + "2": 2}),
    lambda store, key: store.delete(key),
    lambda store, key: store.holder(key),
    lambda store, key: store.record_failure(key, 5),
    lambda store, key: store.keys(),
    lambda store, key: store.acquire(key, 60),
]


@pytest.fixture(params=[kind for kind in SHARED_STORES if kind != "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a store that has a server."""
    # Reads of many values have more time on DynamoDB: more than a test has.
    monkeypatch.setattr(batches, "READ_TIMEOUT", REQUEST_TIMEOUT)
    monkeypatch.setattr(scan, "READ_TIMEOUT", REQUEST_TIMEOUT)
    url = shared_store_url(request, tmp_path)
    return f"{url}{'&' if '?' in url else '?'}request_timeout={REQUEST_TIMEOUT}"


async def test_all_callers_of_a_silent_store_have_their_error_in_time(url: str) -> None:
    tunnel = Tunnel(random.Random(1))
    late: list[tuple[int, float]] = []
    errors: Counter[str] = Counter()

    async def ask(store: Any, number: int) -> None:
        kind = number % len(CALLS)
        bound = BOUND + LATE + (TAKING_BACK if kind == len(CALLS) - 1 else 0)
        began = time.monotonic()
        try:
            await CALLS[kind](store, f"k{number}")
        except (StoreTimeoutError, StoreConnectionError) as error:
            errors[type(error).__name__] += 1
        took = time.monotonic() - began
        if took > bound:
            late.append((kind, took))

    async with through(url, tunnel) as near, open_persistence(near) as store:
        await store.get("warm up")
        tunnel.silent = True
        async with anyio.create_task_group() as group:
            for number in range(CALLERS):
                group.start_soon(ask, store, number)
        assert not late
        assert sum(errors.values()) == CALLERS
        tunnel.silent = False
        assert await store.get("k") is None
