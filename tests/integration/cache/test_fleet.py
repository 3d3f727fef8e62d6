"""One load for a whole fleet: real processes on one store, one of which may be killed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest

from gogoscope import Cache, open_persistence
from gogoscope.stores.sqlite.store import SQLiteStore
from tests.support.shared_stores import SHARED_STORES, shared_store_url

WORKER = Path(__file__).with_name("worker.py")
LEASE = 6.0
SOON = 8.0
"""How much longer than it must something may take on a busy machine, in seconds."""

Process = subprocess.Popen[str]


@pytest.fixture(params=SHARED_STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that several processes share."""
    return shared_store_url(request, tmp_path)


@contextmanager
def workers(number: int, *arguments: object) -> Iterator[list[Process]]:
    """Start processes, let them get ready, and end them."""
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    try:
        for process in processes:
            hear(process, "ready")
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def hear(process: Process, word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


def go(processes: list[Process]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def values(processes: list[Process]) -> list[Any]:
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [value for output in outputs for value in json.loads(output)]


def loads(journal: Path) -> int:
    return len(journal.read_text().splitlines())


def test_200_callers_of_a_cold_key_from_4_processes_make_1_load(url: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with workers(4, url, journal, 50, LEASE) as processes:
        go(processes)
        assert values(processes) == [{"name": "Ann"}] * 200
    assert loads(journal) == 1


@pytest.mark.slow
def test_a_loader_that_is_killed_costs_1_more_load_after_its_lease(
    url: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with (
        workers(1, url, journal, 50, LEASE, "die") as doomed,
        workers(3, url, journal, 50, LEASE) as others,
    ):
        go(doomed)
        hear(doomed[0], "loading")
        go(others)
        time.sleep(LEASE)  # it renews its lease meanwhile, so nobody else loads
        assert loads(journal) == 1
        killed = time.monotonic()
        doomed[0].kill()
        assert values(others) == [{"name": "Ann"}] * 150
        assert time.monotonic() - killed < LEASE + SOON
    assert loads(journal) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_an_unreachable_store_delays_callers_by_a_bounded_time(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts and never answers
        options = {
            "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "region": "us-east-1",
        }
        async with open_persistence(f"dynamodb://table?{urlencode(options)}") as store:
            cache = Cache(store)

            async def load() -> int:
                return 7

            begin = anyio.current_time()
            for _ in range(20):
                assert await cache.get_or_set("k", load, 60) == 7
            assert anyio.current_time() - begin < SOON


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.anyio
async def test_a_store_that_is_closed_fails_no_caller(anyio_backend: str, tmp_path: Path) -> None:
    async def load() -> int:
        return 7

    async with SQLiteStore(tmp_path / "store.db") as store:
        cache = Cache(store)
    assert await cache.get_or_set("k", load, 60) == 7
