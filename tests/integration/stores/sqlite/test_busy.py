"""A SQLite file that another process writes to: waiting for it is bounded and can be cancelled."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest

from gogoscope import Cache
from gogoscope.cache import outages
from gogoscope.exceptions import StoreTimeoutError
from gogoscope.stores.sqlite.store import SQLiteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@contextmanager
def another_writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the file's write lock, as a process in the middle of a transaction does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def open_files(path: Path) -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(path))]


async def test_waiting_for_another_process_ends_when_it_is_done(path: Path) -> None:
    async with SQLiteStore(path) as store, anyio.create_task_group() as group:
        with another_writer(path) as other:
            group.start_soon(store.set, "k", 1)
            await anyio.wait_all_tasks_blocked()
            assert await store.get("k") is None
            other.execute("COMMIT")
        with anyio.fail_after(20):
            while await store.get("k") is None:
                await anyio.sleep(0.001)


async def test_waiting_for_another_process_is_bounded(path: Path) -> None:
    async with SQLiteStore(path, busy_timeout=0.05) as store:
        with another_writer(path):
            with pytest.raises(StoreTimeoutError, match=r"busy for 0\.05 s; nothing was done") as e:
                await store.set("k", 1)
            assert isinstance(e.value.__cause__, sqlite3.OperationalError)
            assert e.value.retryable
            assert await store.get("k") is None
        await store.set("k", 1)


async def test_a_busy_timeout_of_zero_does_not_wait(path: Path) -> None:
    async with SQLiteStore(path, busy_timeout=0) as store:
        with another_writer(path), pytest.raises(StoreTimeoutError):
            await store.acquire("k", 1)
        assert await store.holder("k") is None


async def test_waiting_for_another_process_is_cancelled_at_once_and_undone(path: Path) -> None:
    async with SQLiteStore(path) as store:
        with another_writer(path):
            with anyio.fail_after(5), anyio.move_on_after(0.05) as waiting:
                await store.set("k", 1)
            assert waiting.cancelled_caught
        assert await store.get("k") is None


async def test_opening_waits_for_another_process_that_is_making_the_file(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with anyio.create_task_group() as group:

            async def open_and_use() -> None:
                async with SQLiteStore(path) as store:
                    await store.set("k", 1)

            group.start_soon(open_and_use)
            await anyio.wait_all_tasks_blocked()
            other.execute("COMMIT")
    async with SQLiteStore(path) as store:
        assert await store.get("k") == 1


def test_many_that_open_a_new_file_at_once_all_get_a_store(tmp_path: Path) -> None:
    rounds, openers = 30, 4
    barrier = threading.Barrier(openers, timeout=30)
    counts: list[int] = []

    async def open_and_count(path: Path) -> None:
        barrier.wait()
        async with SQLiteStore(path) as store:
            counts.append(await store.record_failure("c", 9))

    def open_all() -> None:
        for number in range(rounds):
            anyio.run(open_and_count, tmp_path / f"{number}.db")

    threads = [threading.Thread(target=open_all) for _ in range(openers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == sorted([*range(1, openers + 1)] * rounds)


async def test_opening_a_file_that_stays_locked_is_bounded(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreTimeoutError):
            async with SQLiteStore(path, busy_timeout=0.05):
                pytest.fail("it opened")
    assert open_files(path) == []


async def test_tasks_of_one_process_share_the_waiting(path: Path) -> None:
    async with SQLiteStore(path) as store:
        counts: list[int] = []

        async def fail() -> None:
            counts.append(await store.record_failure("c", 10**9))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                with another_writer(path) as other:
                    for _ in range(50):
                        group.start_soon(fail)
                    await anyio.sleep(0.02)
                    other.execute("COMMIT")
        assert sorted(counts) == list(range(1, 51))


async def build() -> int:
    return 42


async def test_a_cold_value_waits_for_another_process_once_and_is_cancelled_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "STORE_SECONDS", 0.1)
    async with SQLiteStore(path) as store:
        cache = Cache(store)
        with another_writer(path) as other:
            with anyio.fail_after(3):  # and not for taking back what was never claimed
                assert await cache.get_or_set("a", build, 60) == 42
            with anyio.fail_after(3):
                assert await cache.get_or_set("b", build, 60) == 42
            outages.state_of(store).locks.failed = False
            with anyio.fail_after(3), anyio.move_on_after(0.01) as waiting:
                await cache.get_or_set("c", build, 60)
            assert waiting.cancelled_caught
            other.execute("COMMIT")
        outages.state_of(store).locks.failed = False
        monkeypatch.setattr(outages, "STORE_SECONDS", 30)
        assert await cache.get_or_set("d", build, 60) == 42
        assert await store.get_many(list("abcd")) == {"d": 42}


async def test_a_claim_that_waited_for_another_process_is_not_taken_back(path: Path) -> None:
    class Counting(SQLiteStore):
        releases = 0

        async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
            self.releases += 1
            return await super().release_lock(key, nonce, in_time=in_time)

    async with Counting(path, busy_timeout=2) as store:
        with another_writer(path):
            with anyio.move_on_after(0.05) as waiting:
                await store.acquire("k", 60)
            assert waiting.cancelled_caught
            with pytest.raises(StoreTimeoutError):
                await store.acquire("k", 60)
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await store.acquire("k", 60)
        assert cancelled.cancelled_caught
        assert store.releases == 0
        assert await store.holder("k") is None
