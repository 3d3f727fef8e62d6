"""Locks between real processes: death, blocked event loops, a store that is cut off, and leaks."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gogoscope import LeaseLostError, open_persistence, scope
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import open_client
from tests.benchmarks.lock_leaks import growth
from tests.support.engines import Engine
from tests.support.faulty_proxy import FaultyProxy
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[3]
LEASE = 2.4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=SHARED_STORES)
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


@asynccontextmanager
async def holder(url: str) -> AsyncIterator[tuple[subprocess.Popen[str], int]]:
    """Return a process that holds the lock, and its fencing token."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/integration/locks/worker.py"), url, "job", str(LEASE)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        yield process, int(await anyio.to_thread.run_sync(process.stdout.readline))
    finally:
        process.kill()
        process.communicate()


async def test_a_waiter_gets_the_lock_of_a_killed_process_when_its_lease_is_over(
    shared_url: str,
) -> None:
    async with (
        holder(shared_url) as (process, token),
        open_persistence(shared_url) as store,
        scope(persistence=store) as s,
    ):
        waiting = s.task(s.acquire_lock, "job", 5, None)
        await anyio.sleep(0.5)
        process.kill()
        killed = time.monotonic()
        handle = (await waiting).unwrap()
        assert time.monotonic() - killed < LEASE + 8
        assert handle is not None
        assert handle.fencing_token > token


async def test_the_lock_of_a_killed_process_is_free_once_its_lease_is_over(
    shared_url: str,
) -> None:
    async with holder(shared_url) as (process, token):
        process.kill()
        await anyio.sleep(LEASE + 0.1)
        async with open_persistence(shared_url) as store, scope(persistence=store) as s:
            handle = await s.acquire_lock("job", 5, wait=0)
            assert handle is not None
            assert handle.fencing_token > token


async def test_the_holder_in_another_process_is_described(shared_url: str) -> None:
    async with holder(shared_url) as (process, token), open_persistence(shared_url) as store:
        found = await store.holder("job")
        assert found is not None
        assert (found.pid, found.fencing_token) == (process.pid, token)
        assert found.scope == "worker.main"
        assert 0 < found.lease_left <= LEASE


@pytest.mark.slow
async def test_ensure_raises_when_the_event_loop_was_blocked_beyond_the_lease(
    shared_url: str,
) -> None:
    async with open_persistence(shared_url) as store:
        with pytest.raises(LeaseLostError, match=r"not renewed within its lease of 2\.4 s"):
            async with scope(persistence=store) as s, s.lock("job", ttl=LEASE) as locked:
                time.sleep(LEASE + 1)
                locked.ensure()
                pytest.fail("ensure did not tell")


@pytest.mark.parametrize("dies_how", ["refuses", "says nothing"])
async def test_a_store_that_is_cut_off_ends_the_block_by_the_end_of_its_lease(
    dynamodb_engine: Engine, dynamodb_table: str, dies_how: str
) -> None:
    class Dying(FaultyProxy):
        dead = False

        async def received(self, request: bytes) -> None:
            if self.dead and dies_how == "refuses":
                raise anyio.EndOfStream
            if self.dead:
                await anyio.sleep_forever()

    proxy = Dying(random.Random(1))
    async with (
        proxy.running(dynamodb_engine.endpoint_url),
        DynamoDBAdapter(None, dynamodb_table, endpoint_url=proxy.url) as store,
    ):
        with pytest.raises(LeaseLostError, match="not renewed within its lease") as caught:
            async with scope(persistence=store) as s, s.lock("job", ttl=LEASE) as locked:
                await anyio.sleep(0.2)
                proxy.dead = True
                try:
                    await anyio.sleep_forever()
                finally:
                    assert anyio.current_time() <= locked._handle.deadline + 8
        proxy.dead = False
    assert re.search("the store (failed with|did not answer)", caught.value.reason)


@pytest.mark.slow
async def test_memory_and_files_are_constant_on_sqlite(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        grown = await growth(store, 2000)
    assert grown.memory < 100_000
    assert grown.files <= 0
    assert grown.tasks == 0


async def test_memory_and_sockets_are_constant_on_dynamodb(
    dynamodb_engine: Engine, dynamodb_table: str
) -> None:
    if dynamodb_engine.kind == "moto":
        pytest.skip("moto's server keeps what it is sent in this process")
    async with open_client(endpoint_url=dynamodb_engine.endpoint_url) as client:
        grown = await growth(DynamoDBAdapter(client, dynamodb_table), 400)
    assert grown.memory < 200_000
    assert grown.files <= 0
    assert grown.tasks == 0


@pytest.mark.slow
def test_another_process_leads_within_a_lease_after_the_leader_was_killed(
    tmp_path: Path,
) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples/leader.py"), "--ttl", "1.5"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    killed = re.search(r"^(worker-\d) was killed$", finished.stdout, re.MULTILINE)
    took_over = re.search(r"^(worker-\d) took over after ([\d.]+) s", finished.stdout, re.MULTILINE)
    assert killed
    assert took_over
    assert took_over[1] != killed[1]
    assert float(took_over[2]) <= 1.5 + 5
