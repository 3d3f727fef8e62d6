"""The default store of a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from gogoscope import (
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    PersistenceError,
    cached,
    open_persistence,
    scope,
)
from gogoscope.persistence.default import default_home
from gogoscope.stores.memory import process_store

pytestmark = pytest.mark.anyio

URL = "memory://default"


@pytest.fixture
def name() -> str:
    """Return what is in no store of this process."""
    return uuid.uuid4().hex


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


async def fail() -> None:
    raise ConnectionError("down")


async def test_scopes_that_name_no_store_use_the_default_one(url: str) -> None:
    async with open_persistence(url, default=True) as store:
        async with scope() as s:
            await s.cache.set("k", 1)
            async with s.child() as child:
                assert await child.cache.get("k") == 1
            async with scope(persistence="memory:") as other:
                assert await other.cache.get("k") is None
        assert await store.get("k") == 1
    async with scope() as s:
        assert await s.cache.get("k") is None


async def test_a_second_default_store_is_refused_and_the_first_goes_on(url: str) -> None:
    async with open_persistence(url, default=True):
        with pytest.raises(ConfigurationError, match=r"has <the default store .* already"):
            async with open_persistence(URL, default=True):
                pytest.fail("it opened")
        async with open_persistence(URL), scope() as s:
            await s.cache.set("k", 1)
    async with open_persistence(URL, default=True) as store:
        assert await store.get("k") is None
    assert default_home() is None


async def test_a_block_that_is_open_is_refused_like_another_default_store(url: str) -> None:
    opening = open_persistence(url, default=True)
    for _ in range(2):
        async with opening as store:
            with pytest.raises(ConfigurationError, match=r"has <the default store .*> already"):
                await opening.__aenter__()
            async with scope() as s:
                await s.cache.set("k", 1)
            assert await store.get("k") == 1
            await store.delete("k")
    assert default_home() is None


async def test_a_default_store_that_does_not_open_leaves_none_behind(tmp_path: Path) -> None:
    with pytest.raises(PersistenceError):
        async with open_persistence(f"sqlite:///{tmp_path}/missing/store.db", default=True):
            pytest.fail("it opened")
    async with open_persistence(URL, default=True):
        assert default_home() is not None


async def test_a_breaker_outside_of_scopes_uses_the_default_store(url: str, name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=2)
    async with open_persistence(url, default=True) as store:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await breaker.call(fail)
        with anyio.fail_after(10):
            while (state := await store.get_state(name)) is None or (state.state != "open"):
                await anyio.sleep(0.001)
        async with scope() as s:
            err, _ = await s.task(fail, circuit_breaker=breaker)
            assert isinstance(err, CircuitOpenError)
        assert (await breaker.state()).state == "open"
    assert await process_store().get_state(name) is None
    with pytest.raises(ConnectionError):
        await breaker.call(fail)


async def test_what_a_breaker_knows_is_sent_before_the_default_store_is_closed(url: str) -> None:
    breaker = CircuitBreaker("settled", failure_threshold=5)
    async with open_persistence(url, default=True):
        with pytest.raises(ConnectionError):
            await breaker.call(fail)
    async with open_persistence(url) as store:
        state = await store.get_state("settled")
        assert state is not None
        assert state.failure_count == 1


async def test_a_breaker_that_was_used_before_finds_the_default_store(url: str) -> None:
    breaker = CircuitBreaker("used-before", failure_threshold=1)
    for _ in range(3):
        await breaker.call(anyio.lowlevel.checkpoint)
    async with open_persistence(url, default=True) as store:
        with pytest.raises(ConnectionError):
            await breaker.call(fail)
        with pytest.raises(CircuitOpenError):
            await breaker.call(fail)
        with anyio.fail_after(10):
            while await store.get_state("used-before") is None:
                await anyio.sleep(0.001)
    await breaker.call(anyio.lowlevel.checkpoint)


async def test_a_cached_function_without_a_cache_uses_the_default_store(url: str) -> None:
    calls = 0

    @cached(ttl=60, key=lambda: "cached-of-default")
    async def load() -> int:
        nonlocal calls
        calls += 1
        return calls

    async with open_persistence(url, default=True) as store:
        assert [await load(), await load()] == [1, 1]
        assert await store.get("cached-of-default") == 1
        async with scope():
            assert await load() == 1
    await process_store().clear()
    assert [await load(), await load()] == [2, 2]
    assert await process_store().get("cached-of-default") == 2


async def test_the_default_store_refreshes_what_is_cached_outside_of_scopes(name: str) -> None:
    calls = 0
    refreshed = anyio.Event()

    @cached(None, 0.001, key=lambda: "refreshed-of-default", stale_while_revalidate=60)
    async def load() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            refreshed.set()
        return calls

    async with open_persistence(f"memory://{name}", default=True):
        assert await load() == 1
        await anyio.sleep(0.01)
        assert await load() == 1
        with anyio.fail_after(10):
            await refreshed.wait()


def test_cached_needs_a_ttl() -> None:
    with pytest.raises(TypeError, match="cached needs a ttl"):
        cached()


async def test_the_block_may_be_left_in_another_task_and_waits_for_its_background() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    block = open_persistence(URL, default=True)
    await block.__aenter__()
    home = default_home()
    assert home is not None
    assert home.spawn(work, brief=False)
    await anyio.wait_all_tasks_blocked()

    async def leave() -> None:
        await block.__aexit__(None, None, None)

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
    assert ended == ["cancelled"]
    assert default_home() is None
    assert not home.spawn(work)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_everything_settles_though_asyncio_cancels_the_end_of_the_block(url: str) -> None:
    settling, settled = anyio.Event(), anyio.Event()

    class Capability:
        def begin_end(self) -> float:
            return 1.0

        async def settle(self) -> None:
            settling.set()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            settled.set()

    async def open_it() -> None:
        async with open_persistence(url, default=True):
            home = default_home()
            assert home is not None
            home.attach(Capability, lambda _: Capability())

    opened = asyncio.create_task(open_it())
    with anyio.fail_after(20):
        await settling.wait()
        opened.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opened
    assert settled.is_set()
    assert default_home() is None


async def test_an_error_in_the_block_leaves_it_as_it_is(url: str) -> None:
    with pytest.raises(ConnectionError, match="down"):
        async with open_persistence(url, default=True):
            await fail()
    assert default_home() is None


async def test_another_event_loop_is_refused_by_the_default_store(url: str) -> None:
    breaker = CircuitBreaker("of-another-loop")
    threads: list[str] = []

    async def elsewhere() -> None:
        threads.append(threading.current_thread().name)
        async with scope() as s:
            with pytest.raises(PersistenceError, match="belongs to the event loop"):
                await s.cache.get("k")
        await breaker.call(anyio.lowlevel.checkpoint)

    async with open_persistence(url, default=True):
        await anyio.to_thread.run_sync(anyio.run, elsewhere)
    assert threads


FORKED = """if True:
    import multiprocessing, os, sys
    import anyio, anyio.to_thread
    from gogoscope import CircuitBreaker, PersistenceError, cached, open_persistence, scope

    url, backend = sys.argv[1:]
    breaker = CircuitBreaker("payments")

    async def answer():
        return 42

    async def use():
        refused = 0
        async with scope() as s:
            for work in (lambda: s.acquire_lock("job", 60), lambda: s.cache.set("k", 2)):
                try:
                    await work()
                except PersistenceError as error:
                    refused += f"process {os.getppid()}, of which this one is a fork" in str(error)
            assert await s.task(answer) == (None, 42)
            assert await s.cache.get_or_set("k", answer, 60) == 42
        assert await breaker.call(answer) == 42
        assert refused == 2, refused
        async with open_persistence(url, default=True) as own, scope() as s:
            assert await s.acquire_lock("of the fork", 60)
            await own.set("k", 3)

    def in_the_fork():
        anyio.run(use, backend=backend)

    async def main():
        async with open_persistence(url, default=True) as store:
            assert await breaker.call(answer) == 42
            async with scope() as s, s.lock("job"):
                child = multiprocessing.get_context("fork").Process(target=in_the_fork)
                await anyio.to_thread.run_sync(child.start)
                await anyio.to_thread.run_sync(child.join, 30)
                assert child.exitcode == 0, child.exitcode
                assert await s.acquire_lock("of the parent", 60)
            assert await store.holder("job") is None

    anyio.run(main, backend=backend)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("memory", [False, True], ids=["sqlite", "memory"])
def test_a_forked_process_is_refused_by_the_default_store_until_it_has_its_own(
    backend: str, memory: bool, tmp_path: Path
) -> None:
    url = "memory:" if memory else f"sqlite:///{tmp_path}/store.db"
    subprocess.run([sys.executable, "-c", FORKED, url, backend], check=True, timeout=60)
