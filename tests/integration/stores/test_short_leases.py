"""A lease outlives an answer that is lost, however short it is beside the store's time limit."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import anyio
import pytest

from gogoscope import open_persistence, scope
from tests.support.shared_stores import SHARED_STORES, shared_store_url
from tests.support.tunnel import Tunnel, through

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LEASE = 4.0


@pytest.fixture(params=[kind for kind in SHARED_STORES if kind != "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that waits for an answer for longer than the lease."""
    url = shared_store_url(request, tmp_path)
    return f"{url}{'&' if '?' in url else '?'}request_timeout=30"


async def test_a_lease_outlives_a_lost_answer_to_its_renewal(url: str) -> None:
    tunnel = Tunnel(random.Random(1))
    key = secrets.token_hex(8)
    async with (
        through(url, tunnel) as near,
        open_persistence(near) as store,
        scope(persistence=store) as s,
        s.lock(key, ttl=LEASE) as locked,
        s.semaphore(key, limit=1, ttl=LEASE) as permit,
    ):
        tunnel.silent = True
        await anyio.sleep(LEASE / 3 + 0.2)  # the first renewals get no answer
        tunnel.silent = False
        await anyio.sleep(LEASE)
        locked.ensure()
        permit.ensure()
