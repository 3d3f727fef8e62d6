"""Permits between real processes: death, stopping, and a writer among many readers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gogoscope import LockTimeoutError, open_persistence, scope
from gogoscope.persistence.protocols.permits import PermitProvider
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
LEASE = 2.4
PATIENCE = 60


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=SHARED_STORES)
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


@contextmanager
def process(name: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    program = ROOT / "tests/integration/permits" / f"{name}.py"
    started = subprocess.Popen(
        [sys.executable, str(program), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


async def line_of(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return (await anyio.to_thread.run_sync(started.stdout.readline)).strip()


@asynccontextmanager
async def holder(url: str, what: str) -> AsyncIterator[tuple[subprocess.Popen[str], int]]:
    """Return a process that holds a permit, and its fencing token."""
    with process("holder", url, what, "k", str(LEASE)) as started:
        yield started, int(await line_of(started))


@pytest.mark.parametrize("what", ["semaphore", "read"])
async def test_the_permit_of_a_killed_process_is_free_once_its_lease_is_over(
    shared_url: str, what: str
) -> None:
    async with (
        holder(shared_url, what) as (started, token),
        open_persistence(shared_url) as store,
        scope(persistence=store) as s,
    ):

        def block(wait: float) -> Any:
            if what == "semaphore":
                return s.semaphore("k", 1, wait=wait)
            return s.write_lock("k", wait=wait)

        with pytest.raises(LockTimeoutError, match=f"pid {started.pid}"):
            async with block(0):
                pytest.fail("it is held")
        started.kill()
        started.wait()
        await anyio.sleep(LEASE + 0.1)
        async with block(0) as permit:
            assert permit.fencing_token > token


async def test_a_process_that_was_stopped_for_longer_than_its_lease_has_lost_its_permit(
    shared_url: str,
) -> None:
    async with (
        holder(shared_url, "write") as (started, token),
        open_persistence(shared_url) as store,
        scope(persistence=store) as s,
    ):
        started.send_signal(signal.SIGSTOP)
        with anyio.fail_after(PATIENCE):
            async with s.read_lock("k") as permit:
                assert permit.fencing_token > token
                started.send_signal(signal.SIGCONT)
                assert (await line_of(started)).startswith("lost: ")
                assert await permit.is_valid()


async def test_a_writer_waits_no_longer_than_the_readers_before_it(shared_url: str) -> None:
    with (
        process("reader", shared_url, "k") as one,
        process("reader", shared_url, "k") as two,
        anyio.fail_after(PATIENCE),
    ):
        tokens = [int(await line_of(started)) for started in (one, two) * 2]
        async with open_persistence(shared_url) as store, scope(persistence=store) as s:
            newest: list[int] = []
            permits = store.capability(PermitProvider)

            async def look() -> None:
                """Note the newest reader that came before the writer began to wait."""
                while not newest:
                    found = await permits.read_permits("read_write_lock", "k")
                    assert found is not None
                    if any(one.takes == "all" for one in found.waiting.values()):
                        newest.append(found.version)

            looking = s.task(look)
            async with s.write_lock("k") as writing:
                looking.cancel()
                token = writing.fencing_token
                await anyio.sleep(0.3)
                for started in (one, two):
                    started.kill()
            await looking
        for started in (one, two):
            assert started.stdout is not None
            tokens += map(int, started.stdout.read().split())
        assert max(tokens) < token
        if newest:  # else it had not to wait
            assert max(tokens) <= newest[0] < token
