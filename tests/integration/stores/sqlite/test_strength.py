"""A SQLite store under load, killed, on a full disk, and on a file of another version."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope.exceptions import PersistenceError
from gogoscope.stores.sqlite import schema as sqlite_schema
from gogoscope.stores.sqlite.store import SQLiteStore

WRITER = Path(__file__).with_name("writer.py")
LOAD_SECONDS = float(os.environ.get("GOGOSCOPE_TEST_LOAD_SECONDS", "2"))
PROCESSES, TASKS = 10, 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def start_writer(path: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", WRITER, path, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def let_go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()


def wait_until_ready(writer: subprocess.Popen[str]) -> None:
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"


def end(writer: subprocess.Popen[str]) -> None:
    writer.kill()
    writer.wait()
    for pipe in (writer.stdin, writer.stdout):
        assert pipe is not None
        pipe.close()


def check_integrity(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def stored(path: Path) -> tuple[dict[str, int], set[str]]:
    """Return the counts of all circuits, and the keys of all values."""
    async with SQLiteStore(path) as store:
        circuits = await store.circuits()
        counts = {key: state.failure_count for key, state in circuits.items()}
        return counts, set(await store.keys())


def test_10_processes_of_5_tasks_write_to_one_file_without_an_error_and_lose_nothing(
    path: Path,
) -> None:
    writers = [start_writer(path, LOAD_SECONDS, TASKS, f"p{n}") for n in range(PROCESSES)]
    try:
        for writer in writers:
            wait_until_ready(writer)
        for writer in writers:
            let_go(writer)
        outputs = [writer.communicate(timeout=LOAD_SECONDS + 60)[0] for writer in writers]
    finally:
        for writer in writers:
            end(writer)
    results: list[dict[str, Any]] = [json.loads(output) for output in outputs]
    assert [error for result in results for error in result["errors"]] == []
    told: Counter[str] = Counter()
    for result in results:
        told += Counter(result["told"])
    longest = max(result["longest"] for result in results)
    print(f"{dict(told)}, longest round {longest:.2f} s")
    counts, keys = anyio.run(stored, path)
    assert len(keys) == told.pop("values") > 0
    assert told.pop("locks") > 0
    assert counts == told
    check_integrity(path)


def test_killed_in_the_middle_of_writes_it_loses_nothing_that_was_acknowledged(
    path: Path, tmp_path: Path
) -> None:
    for kill in range(4):
        diary = tmp_path / f"diary-{kill}"
        diary.touch()
        writers = [start_writer(path, 60, 4, f"p{kill}{n}", diary) for n in range(2)]
        try:
            for writer in writers:
                wait_until_ready(writer)
                let_go(writer)
            while diary.read_text().count("\n") < 50 * (kill + 1):
                assert all(writer.poll() is None for writer in writers)
            writers[0].send_signal(signal.SIGKILL)
            writers[0].wait()
            # The other one works on, and is killed too: nobody is left to tidy up.
            survived = diary.read_text().count("\n")
            while diary.read_text().count("\n") < survived + 20:
                assert writers[1].poll() is None
            writers[1].send_signal(signal.SIGKILL)
        finally:
            for writer in writers:
                end(writer)
        acknowledged = set(diary.read_text().splitlines())
        _, keys = anyio.run(stored, path)
        assert acknowledged <= keys
        check_integrity(path)


FULL_DISK = """
import resource, signal, sys
import anyio
from gogoscope.exceptions import PersistenceError
from gogoscope.stores import SQLiteStore

async def main():
    async with SQLiteStore(sys.argv[1]) as store:
        await store.set("old", "kept")
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        done = 0
        try:
            for number in range(1000):
                await store.set(f"k{number}", "x" * 10_000)
                done = number + 1
        except PersistenceError as error:
            assert repr(sys.argv[1]) in str(error), error
            assert error.__cause__ is not None
            print(type(error).__name__, error)
        else:
            raise AssertionError("the disk never was full")
        assert await store.get("old") == "kept"
        assert len(await store.keys("k*")) == done > 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await store.set("new", 1)
        assert await store.get("new") == 1

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
anyio.run(main)
"""

READ_ONLY = """
import os, sys, tempfile
import anyio
from gogoscope.exceptions import PersistenceError
from gogoscope.stores import SQLiteStore

async def main():
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(folder + "/store.db") as store:
            await store.set("all modules", "are loaded now")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        async with SQLiteStore(sys.argv[1]) as store:
            await store.set("k", 2)
    except PersistenceError as error:
        assert repr(sys.argv[1]) in str(error), error
        assert not error.retryable or "unable to open" in str(error), error
        print(type(error).__name__, error)
    else:
        raise AssertionError("it was written to")

anyio.run(main)
"""


def run_script(script: str, path: Path) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of file sizes")
def test_a_disk_that_is_full_is_an_error_that_names_the_file_and_loses_nothing(path: Path) -> None:
    assert "the disk may be full" in run_script(FULL_DISK, path)
    check_integrity(path)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such permissions")
def test_a_file_that_may_not_be_written_is_an_error_that_names_it() -> None:
    # Not tmp_path, whose parents nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        anyio.run(open_and_set, path)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            assert "this process may not write to the file" in run_script(READ_ONLY, path)
        finally:
            path.parent.chmod(0o755)
        assert anyio.run(stored, path) == ({"c": 1}, {"k"})


async def open_and_set(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        await store.record_failure("c", 9)


STEP_TO_2 = ("ALTER TABLE records ADD COLUMN note TEXT", "CREATE INDEX notes ON records (note)")


@pytest.fixture
def newer_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a file of version 1, and be a program that knows version 2."""
    anyio.run(open_and_set, path)
    assert version(path) == 1
    monkeypatch.setattr(sqlite_schema, "STEPS", (*sqlite_schema.STEPS, STEP_TO_2))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return number


def has_notes(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        columns = connection.execute("PRAGMA table_info(records)").fetchall()
        return "note" in [column[1] for column in columns]


@pytest.mark.usefixtures("newer_program")
def test_a_file_of_version_1_is_brought_up_to_date_with_all_that_is_in_it(path: Path) -> None:
    assert anyio.run(stored, path) == ({"c": 1}, {"k"})
    assert version(path) == 2
    assert has_notes(path)
    anyio.run(open_and_set, path)
    assert anyio.run(stored, path) == ({"c": 2}, {"k"})


@pytest.mark.usefixtures("newer_program")
def test_of_many_that_open_an_old_file_one_brings_it_up_to_date(path: Path) -> None:
    barrier = threading.Barrier(8, timeout=30)
    errors: list[BaseException] = []

    def open_it() -> None:
        barrier.wait()
        try:
            anyio.run(open_and_set, path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert anyio.run(stored, path) == ({"c": 9}, {"k"})
    assert version(path) == 2


@pytest.mark.usefixtures("newer_program")
def test_a_step_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (*sqlite_schema.STEPS, ("CREATE TABLE more (x)", "CREATE TABLE more (x)"))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_schema, "STEPS", steps)
        with pytest.raises(PersistenceError, match="already exists"):
            anyio.run(stored, path)
    assert version(path) == 1
    assert not has_notes(path)
    assert anyio.run(stored, path) == ({"c": 1}, {"k"})


@pytest.mark.usefixtures("newer_program")
def test_a_program_that_has_the_file_open_goes_on_while_a_newer_one_brings_it_up_to_date(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with monkeypatch.context() as older:
            older.setattr(sqlite_schema, "STEPS", sqlite_schema.STEPS[:1])
            store = await SQLiteStore(path).__aenter__()
        try:
            await open_and_set(path)
            assert version(path) == 2
            await store.set("of the older one", 1)
            assert await store.record_failure("c", 9) == 3
        finally:
            await store.__aexit__(None, None, None)

    anyio.run(main)


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    anyio.run(open_and_set, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(PersistenceError, match=r"schema version 2; .* knows 1 .* newer gogoscope"):
        anyio.run(stored, path)
    assert path.read_bytes() == before


def test_a_lock_that_an_older_version_wrote_is_kept_for_its_whole_lease(path: Path) -> None:
    async def main() -> None:
        async with SQLiteStore(path) as store:
            assert await store.acquire("job", 0.5)
            with closing(sqlite3.connect(path)) as connection, connection:
                (content,) = connection.execute(
                    "SELECT content FROM records WHERE kind = 'lock'"
                ).fetchone()
                older = json.loads(content)
                del older["timeline"], older["steady_until_ms"]
                older["lease_until_ms"] -= 3_600_000
                connection.execute(
                    "UPDATE records SET content = ? WHERE kind = 'lock'", (json.dumps(older),)
                )
            began = time.monotonic()
            while await store.acquire("job", 0.5) is None:
                await anyio.sleep(0.05)
            assert time.monotonic() - began >= 0.5

    anyio.run(main)
