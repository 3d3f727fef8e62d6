"""A SQLite store from opening to closing: alone, cancelled and forked."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from gogoscope.exceptions import PersistenceError
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores.sqlite import store as store_module
from gogoscope.stores.sqlite.file import SQLiteFile
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope.testing.conformance import ManualClock
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


class HeldClock:
    """A wall clock that stops whoever reads it, in the middle of a transaction."""

    def __init__(self) -> None:
        self.holds = False
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def wall(self) -> float:
        if self.holds:
            self.reached.set()
            assert self.go_on.wait(30)
        return 1_800_000_000.0

    def elapsed(self) -> float:
        return 0.0

    async def wait_until_reached(self) -> None:
        assert await anyio.to_thread.run_sync(self.reached.wait, 30)


@contextmanager
def another_writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the file's write lock, as a process in the middle of a transaction does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def open_files(path: Path) -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(path))]


async def test_a_store_is_used_inside_its_block_only(path: Path) -> None:
    store = SQLiteStore(path)
    with pytest.raises(PersistenceError, match="is not open; use it inside 'async with'"):
        await store.get("k")
    async with store:
        await store.set("k", 1)
    for operation in (store.get("k"), store.set("k", 1), store.acquire("k", 1), store.keys()):
        with pytest.raises(PersistenceError, match="is not open"):
            await operation


async def test_a_store_cannot_be_entered_twice_at_once(path: Path) -> None:
    async with SQLiteStore(path) as store:
        with pytest.raises(PersistenceError, match="is open already"):
            await store.__aenter__()
        assert await store.get("k") is None


async def test_a_store_may_be_opened_again_and_keeps_its_data(path: Path) -> None:
    store = SQLiteStore(path)
    for count in range(1, 4):
        async with store:
            assert await store.record_failure("c", 9) == count


async def test_a_relative_path_is_below_the_working_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    async with SQLiteStore(path.name):
        assert path.exists()


async def test_closing_leaves_one_file_and_no_open_handle(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        assert open_files(path) != []
    assert open_files(path) == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_opening_that_is_cancelled_leaves_no_open_handle(path: Path) -> None:
    async def attempt_at(n: int) -> CancelledAt:
        attempt = CancelledAt(SQLiteStore(path).__aenter__(), n)
        await attempt.run()
        if attempt.ended:
            await attempt.result.__aexit__(None, None, None)
        assert open_files(path) == []
        return attempt

    assert await cancel_everywhere(attempt_at) > 0


async def test_closing_is_completed_though_cancelled(path: Path) -> None:
    async def attempt_at(n: int) -> CancelledAt:
        store = await SQLiteStore(path).__aenter__()
        attempt = CancelledAt(store.__aexit__(None, None, None), n)
        await attempt.run()
        assert open_files(path) == []
        return attempt

    assert await cancel_everywhere(attempt_at) > 0


async def test_closing_waits_for_the_running_operation(path: Path) -> None:
    clock = HeldClock()
    store = SQLiteStore(path, clock=clock)
    async with anyio.create_task_group() as group, store:
        clock.holds = True
        group.start_soon(store.set, "k", 1)
        await clock.wait_until_reached()
        threading.Timer(0.05, clock.go_on.set).start()
    async with store:
        assert await store.get("k") == 1


async def be_refused(
    refused: list[str], call: Callable[..., Awaitable[object]], *args: Any
) -> None:
    """Call a store that is closed meanwhile, and note what it says."""
    with pytest.raises(PersistenceError, match="is not open") as caught:
        await call(*args)
    refused.append(str(caught.value))


async def test_a_call_while_the_store_closes_is_refused(path: Path) -> None:
    clock = HeldClock()
    store = SQLiteStore(path, clock=clock)
    refused: list[str] = []

    use = partial(be_refused, refused, store.get, "k")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, store:
            clock.holds = True
            group.start_soon(store.set, "k", 1)
            await clock.wait_until_reached()

            async def use_then() -> None:
                await anyio.wait_all_tasks_blocked()  # the store is being closed
                group.start_soon(use)
                await anyio.wait_all_tasks_blocked()
                clock.go_on.set()

            group.start_soon(use_then)
    assert len(refused) == 1


async def test_a_call_that_waits_for_another_process_is_refused_once_the_store_is_closed(
    path: Path,
) -> None:
    async with SQLiteStore(path):
        pass
    store = SQLiteStore(path)
    refused: list[str] = []

    use = partial(be_refused, refused, store.set, "k", 1)

    with anyio.fail_after(10), another_writer(path):
        async with anyio.create_task_group() as group, store:
            group.start_soon(use)
            await anyio.sleep(0.05)
    assert len(refused) == 1


async def test_calls_that_wait_for_another_process_are_refused_though_the_store_is_opened_again(
    path: Path,
) -> None:
    async with SQLiteStore(path):
        pass
    store = SQLiteStore(path)
    refused: list[str] = []

    use = partial(be_refused, refused, store.set, "k", 1)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, store:
            with another_writer(path):
                group.start_soon(use)
                group.start_soon(use)
                await anyio.wait_all_tasks_blocked()
                await store.aclose()
                await store.__aenter__()
                while len(refused) < 2:
                    await anyio.sleep(0.001)
            assert await store.set("k", 2)


async def test_closing_twice_is_closing_once(path: Path) -> None:
    store = SQLiteStore(path)
    with anyio.fail_after(10):
        async with store:
            await store.set("k", 1)
        await store.__aexit__(None, None, None)
        async with store:
            assert await store.get("k") == 1
    assert open_files(path) == []


async def test_who_closes_a_store_that_another_closes_leaves_it_to_who_opens_it_again(
    path: Path,
) -> None:
    clock = HeldClock()
    store = SQLiteStore(path, clock=clock)
    with anyio.fail_after(10):
        async with store, anyio.create_task_group() as group:
            clock.holds = True
            group.start_soon(store.set, "k", 1)
            await clock.wait_until_reached()

            async def go_on() -> None:
                await anyio.wait_all_tasks_blocked()  # both are closing it
                clock.holds = False
                clock.go_on.set()

            group.start_soon(go_on)
            group.start_soon(store.aclose)
            await store.aclose()
            await store.__aenter__()
            await anyio.wait_all_tasks_blocked()
            assert await store.get("k") == 1


async def test_another_event_loop_may_close_the_store_but_not_use_it(path: Path) -> None:
    stores: list[SQLiteStore] = []

    async def open_it() -> None:
        stores.append(SQLiteStore(path))
        await stores[0].__aenter__()

    await anyio.to_thread.run_sync(anyio.run, open_it)
    (store,) = stores
    with anyio.fail_after(10):
        with pytest.raises(
            PersistenceError, match=r"belongs to the event loop .*, which has ended"
        ):
            await store.get("k")
        await store.__aexit__(None, None, None)
        while open_files(path):
            await anyio.sleep(0.001)


async def test_an_operation_that_reached_the_thread_is_completed(path: Path) -> None:
    clock = HeldClock()
    async with SQLiteStore(path, clock=clock) as store:
        clock.holds = True
        async with anyio.create_task_group() as group:
            group.start_soon(store.record_failure, "c", 9)
            await clock.wait_until_reached()
            group.cancel_scope.cancel()
            clock.go_on.set()
        state = await store.get_state("c")
        assert state is not None
        assert state.failure_count == 1


async def test_an_operation_that_waits_for_the_thread_is_cancelled_undone(path: Path) -> None:
    clock = HeldClock()
    async with SQLiteStore(path, clock=clock) as store:
        clock.holds = True
        async with anyio.create_task_group() as group:
            group.start_soon(store.set, "first", 1)
            await clock.wait_until_reached()
            with anyio.move_on_after(0.05) as waiting:
                await store.set("second", 2)
            assert waiting.cancelled_caught
            clock.go_on.set()
        assert await store.keys() == ["first"]


async def test_a_task_that_asyncio_itself_cancels_leaves_the_store_usable(
    path: Path, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio cancels a task from outside its cancel scopes")
    import asyncio

    clock = HeldClock()
    async with SQLiteStore(path, clock=clock) as store:
        clock.holds = True
        task = asyncio.create_task(store.record_failure("c", 9))
        await clock.wait_until_reached()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # who insists does not wait for the operation to be completed
        with pytest.raises(asyncio.CancelledError):
            await task
        second = asyncio.create_task(store.record_failure("c", 9))
        await asyncio.sleep(0.05)
        assert not second.done()
        clock.go_on.set()
        assert await second == 2


async def test_a_close_that_asyncio_itself_cancels_closes_when_the_thread_is_free(
    path: Path, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio cancels a task from outside its cancel scopes")
    import asyncio

    clock = HeldClock()
    store = await SQLiteStore(path, clock=clock).__aenter__()
    clock.holds = True
    busy = asyncio.create_task(store.set("k", 1))
    await clock.wait_until_reached()
    closing_it = asyncio.create_task(store.__aexit__(None, None, None))
    await asyncio.sleep(0)
    closing_it.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing_it
    clock.go_on.set()
    await busy
    with anyio.fail_after(10):
        while open_files(path):
            await anyio.sleep(0.001)
    with pytest.raises(PersistenceError, match="is not open"):
        await store.get("k")


async def test_dead_records_are_removed_from_the_file(path: Path) -> None:
    clock = ManualClock()
    lasting = [f"a{number:03}" for number in range(300)]

    def rows() -> int:
        with closing(sqlite3.connect(path)) as connection:
            count: int = connection.execute("SELECT count(*) FROM records").fetchone()[0]
            return count

    async with SQLiteStore(path, clock=clock) as store:
        for key in lasting:
            await store.set(key, 1)
        for number in range(1_500):
            clock.now += 1
            await store.set(f"b{number}", number, ttl=100)
            await store.claim_lock("job", LockClaim("n", "me", 1_000))
        assert rows() < 300 + 100 + 300
        assert len(await store.keys("b*")) == 100
        clock.now += 2 * 86_400
        for _ in range(500):
            await store.set("a000", 2)
        assert sorted(await store.keys()) == lasting
        assert rows() == len(lasting)


async def test_a_gone_record_is_not_seen_before_it_is_removed(path: Path) -> None:
    clock = ManualClock()
    async with SQLiteStore(path, clock=clock) as store:
        await store.claim_lock("k", LockClaim("n", "me", 1_000))
        await store.record_failure("k", 9)
        await store.set("k", 1, ttl=1)
        clock.now += 86_402
        assert await store.read_lock("k") is None
        assert await store.get_state("k") is None
        assert await store.has("k") is False


def run_script(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


FORKED = """
import multiprocessing, sys
import anyio, anyio.to_thread
from gogoscope.exceptions import PersistenceError
from gogoscope.stores import SQLiteStore

async def in_the_fork():
    try:
        await store.get("k")
    except PersistenceError as error:
        assert "is a fork" in str(error), error
    else:
        raise AssertionError("the fork could use its parent's store")
    await store.__aexit__(None, None, None)
    assert store._file._connection is None, "SQLite forbids a fork even to close it"
    async with SQLiteStore(sys.argv[1]) as own:
        assert await own.get("k") == 1
        await own.set("k", 2)

def fork():
    anyio.run(in_the_fork)

async def main():
    async with store:
        await store.set("k", 1)
        child = multiprocessing.get_context("fork").Process(target=fork)
        await anyio.to_thread.run_sync(child.start)
        await anyio.to_thread.run_sync(child.join)
        assert child.exitcode == 0
        assert await store.get("k") == 2
        await store.set("k", 3)
    async with SQLiteStore(sys.argv[1]) as again:
        assert await again.get("k") == 3

store = SQLiteStore(sys.argv[1])
anyio.run(main)
"""


async def test_a_fork_cannot_use_its_parents_store_and_does_it_no_harm(path: Path) -> None:
    result = run_script(FORKED, path)
    assert result.returncode == 0, result.stderr


async def test_a_killed_process_leaves_a_file_that_works(path: Path) -> None:
    script = """
import os, signal, sys
import anyio
from gogoscope.stores import SQLiteStore

async def main():
    async with SQLiteStore(sys.argv[1]) as store:
        await store.acquire("job", 3600, "the killed one")
        await store.set("k", 1)
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""
    result = run_script(script, path)
    assert result.returncode == -9, result.stderr
    async with SQLiteStore(path) as store:
        assert await store.get("k") == 1
        holder = await store.holder("job")
        assert holder is not None
        assert holder.owner == "the killed one"
        assert await store.acquire("job", 1) is None


async def test_opening_and_closing_leaks_no_descriptor(path: Path) -> None:
    process = psutil.Process()
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
    gc.collect()  # what other tests have left
    before = process.num_fds()
    for _ in range(20):
        async with SQLiteStore(path) as store:
            await store.get("k")
    assert process.num_fds() <= before


@pytest.mark.parametrize("ends", [("", "-wal", "-shm"), ("",), ("-wal",), ("-shm",)])
async def test_a_store_whose_file_was_removed_holds_no_lock_any_more(
    path: Path, ends: tuple[str, ...]
) -> None:
    async with SQLiteStore(path) as store:
        handle = await store.acquire("k", 60)
        assert handle is not None
        for end in ends:
            Path(f"{path}{end}").unlink()
        for operation in (handle.is_valid(), handle.extend(60), store.get("k"), store.set("k", 1)):
            with pytest.raises(PersistenceError, match="was removed or replaced"):
                await operation


async def test_a_store_whose_file_was_replaced_is_refused_until_it_is_opened_again(
    path: Path, tmp_path: Path
) -> None:
    async with SQLiteStore(tmp_path / "other.db") as other:
        await other.set("k", 2)
    store = SQLiteStore(path)
    async with store:
        await store.set("k", 1)
        shutil.copy(tmp_path / "other.db", tmp_path / "copy.db")
        (tmp_path / "copy.db").replace(path)
        with pytest.raises(PersistenceError, match="was removed or replaced"):
            await store.set("k", 3)


async def test_a_store_outlives_a_change_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    monkeypatch.chdir(tmp_path)
    async with SQLiteStore("link.db") as store:
        await store.set("k", 1)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert await store.get("k") == 1


@pytest.mark.skipif(os.name != "posix", reason="no modes of files here")
async def test_only_its_owner_may_read_a_new_file(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        for end in ("", "-wal", "-shm"):
            assert Path(f"{path}{end}").stat().st_mode & 0o777 == 0o600


async def test_the_mode_of_a_file_that_is_there_is_kept(path: Path) -> None:
    path.touch()
    path.chmod(0o660)
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        assert Path(f"{path}-wal").stat().st_mode & 0o777 == 0o660


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_fork_waits_until_no_thread_is_inside_sqlite(path: Path) -> None:
    clock = HeldClock()
    async with SQLiteStore(path, clock=clock) as store, anyio.create_task_group() as group:
        clock.holds = True
        group.start_soon(store.set, "k", 1)
        await clock.wait_until_reached()
        threading.Timer(0.05, clock.go_on.set).start()
        if (pid := os.fork()) == 0:
            os._exit(0 if clock.go_on.is_set() and not store._file._inside.locked() else 1)
        _, code = await anyio.to_thread.run_sync(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(code) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_fork_inherits_no_connection_and_the_parent_opens_its_own_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    async with SQLiteStore(path.name) as store:
        handle = await store.acquire("job", 60)
        assert handle is not None
        await fork(lambda: store._file._connection is None)
        monkeypatch.chdir("/")
        assert await handle.is_valid()
        assert await handle.extend()
        assert store._file._connection is not None
    assert not (Path("/") / path.name).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_file_that_was_removed_after_a_fork_is_not_made_again(
    path: Path, is_replaced: bool
) -> None:
    async with SQLiteStore(path) as store:
        handle = await store.acquire("job", 60)
        assert handle is not None
        await fork(lambda: True)
        path.rename(path.with_suffix(".old"))
        if is_replaced:
            shutil.copy(path.with_suffix(".old"), path)
        for _ in range(2):
            with pytest.raises(PersistenceError, match="was removed or replaced"):
                await handle.is_valid()
        assert path.exists() == is_replaced


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_file_that_is_replaced_while_it_is_opened_again_is_not_used(path: Path) -> None:
    opened: list[int] = []

    def set_up(connection: sqlite3.Connection, path: str) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        opened.append(1)
        if len(opened) == 2:
            shutil.copy(path, f"{path}.new")
            Path(f"{path}.new").replace(path)

    file = SQLiteFile(str(path), 5, set_up)
    await file.open()
    await fork(lambda: True)
    for _ in range(2):
        with pytest.raises(PersistenceError, match="was removed or replaced"):
            await file.run(lambda connection: connection.execute("CREATE TABLE t (x)"))
    await file.close()
    assert len(opened) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_store_that_was_closed_for_a_fork_may_be_closed(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        await fork(lambda: True)
        await store.aclose()
        with pytest.raises(PersistenceError, match="not open"):
            await store.get("k")
    async with store:
        assert await store.get("k") == 1


async def fork(is_so: Callable[[], bool]) -> None:
    """Fork, and make sure that something is so in the forked process."""
    if (pid := os.fork()) == 0:
        os._exit(0 if is_so() else 1)
    _, code = await anyio.to_thread.run_sync(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(code) == 0


async def test_a_lock_is_renewed_while_very_many_keys_are_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "KEYS_PER_PAGE", 10)
    order: list[str] = []
    async with SQLiteStore(path) as store, anyio.create_task_group() as group:
        handle = await store.acquire("job", 60)
        assert handle is not None

        async def write() -> None:
            await store.set_many({f"k{number:04}": number for number in range(1000)})
            order.append("written")

        async def renew() -> None:
            assert await handle.extend()
            order.append("renewed")

        group.start_soon(write)
        await anyio.sleep(0)
        group.start_soon(renew)
    assert order == ["renewed", "written"]
    async with SQLiteStore(path) as store:
        assert len(await store.keys()) == 1000
