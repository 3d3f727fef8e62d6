"""A store in Redis belongs to the event loop and the process that opened it, one of asyncio's."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gogoscope import (
    PersistenceError,
    StoreConnectionError,
    UnsupportedEventLoopError,
    open_persistence,
)
from gogoscope.persistence import monotonic
from gogoscope.stores.redis.store import RedisStore

ROOT = Path(__file__).resolve().parents[4]


def test_trio_is_told_that_it_cannot_be_used() -> None:
    async def main() -> None:
        async with open_persistence("redis://localhost"):
            pytest.fail("it was opened")

    with pytest.raises(UnsupportedEventLoopError, match="redis-py runs on asyncio only"):
        anyio.run(main, backend="trio")


def test_a_server_that_is_not_there_is_told_at_opening() -> None:
    async def main() -> None:
        async with RedisStore("redis://127.0.0.1:1", request_timeout=0.2):
            pytest.fail("it was opened")

    with pytest.raises(StoreConnectionError, match=r"redis://127\.0\.0\.1:1/0 failed") as caught:
        anyio.run(main)
    assert caught.value.__cause__ is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_to_open_a_store_of_its_own(redis_url: str) -> None:
    program = """
import os, sys, anyio
from gogoscope import PersistenceError, open_persistence

async def main():
    async with open_persistence(sys.argv[1]) as store:
        await store.set("k", 1)
        if not os.fork():
            try:
                await store.get("k")
            except PersistenceError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
        print(await store.get("k"))

anyio.run(main)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program, redis_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert finished.returncode == 0, finished.stderr
    told, value = finished.stdout.splitlines()
    assert "open a store of its own here" in told
    assert value == "1"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_store_leaves_no_connection_open(redis_url: str) -> None:
    async with open_persistence(redis_url) as opened:
        store: Any = opened
        async with anyio.create_task_group() as group:
            for n in range(100):
                group.start_soon(store.set, f"k{n}", n)
        assert await store.get("k99") == 99
        lanes = next(iter(store._server._lanes.values()))
        assert 0 < len(lanes.other._idle) <= 32
    assert not store._server._lanes
    gc.collect()  # what was left open would be a ResourceWarning, and that an error


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_closing_is_completed_though_cancelled_while_somebody_waits(redis_url: str) -> None:
    url, _, prefix = redis_url.partition("?key_prefix=")
    store = RedisStore(url, key_prefix=prefix)
    await store.__aenter__()
    store._watch("lock", "k", lambda: None)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.aclose()
    assert not store._server._lanes
    assert store._server._connect is None
    async with store:
        assert await store.get("k") is None


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_store_whose_event_loop_has_ended_can_be_closed_and_opened_again(
    redis_url: str,
) -> None:
    url, _, prefix = redis_url.partition("?key_prefix=")
    store = RedisStore(url, key_prefix=prefix)

    async def leave_open() -> None:
        await store.__aenter__()
        await store._server.close()  # its connections, but not the store

    await anyio.to_thread.run_sync(anyio.run, leave_open)
    with pytest.raises(PersistenceError, match="has ended"):
        await store.get("k")
    await store.aclose()
    async with store:
        assert await store.get("k") is None


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_call_while_the_store_opens_says_so() -> None:
    store = RedisStore("redis://127.0.0.1:1")
    store._life.begin()
    store._server.open()
    for call in (partial(store.set, "k", 1), store.keys, store.clear):
        with pytest.raises(PersistenceError, match="the store is not open") as caught:
            await call()
        assert type(caught.value) is PersistenceError
    await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_closes_a_store_that_another_closes_leaves_it_to_who_opens_it_again(
    redis_url: str,
) -> None:
    url, _, prefix = redis_url.partition("?key_prefix=")
    store = RedisStore(url, key_prefix=prefix)
    async with store, anyio.create_task_group() as group:
        await store.set("k", 1)
        store._watch("lock", "k", lambda: None)
        while store._entries.listener._hearing is None:
            await anyio.sleep(0.001)
        group.start_soon(store.aclose)
        await store.aclose()
        await store.__aenter__()
        await anyio.wait_all_tasks_blocked()
        assert await store.get("k") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_clock_that_was_set_is_forgotten_when_the_store_is_opened_again(
    redis_url: str,
) -> None:
    url, _, prefix = redis_url.partition("?key_prefix=")
    store = RedisStore(url, key_prefix=prefix)
    async with store:
        now = monotonic()
        store._server.clock.learn(0, now, now)
        assert store._entries.clock_was_set()
    async with store:
        assert not store._entries.clock_was_set()
