"""When the file or the disk fails, an error of this library says so, and nothing is half done."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gogoscope.exceptions import (
    CorruptRecordError,
    PersistenceError,
    RecordTooLargeError,
    StoreConnectionError,
)
from gogoscope.persistence import KEYS_PER_PAGE
from gogoscope.stores.sqlite.store import WRITES_PER_SWEEP, SQLiteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def ask(store: SQLiteStore, sql: str) -> Any:
    """Execute a statement on the store's own connection; return the first row, if any."""
    return await store._file.run(lambda connection: connection.execute(sql).fetchone())


def execute(path: Path, statement: str, *args: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, args)


async def open_and_close(path: Path | str) -> None:
    async with SQLiteStore(path):
        pass


async def test_a_missing_folder_is_a_connection_error_with_its_cause(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "store.db"
    with pytest.raises(StoreConnectionError, match="unable to open") as caught:
        await open_and_close(path)
    assert repr(str(path)) in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreConnectionError):
        await open_and_close(tmp_path)


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    await open_and_close(path)
    await open_and_close(path)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    text = "This is the diary of somebody.\n" * 100
    path.write_text(text)
    with pytest.raises(CorruptRecordError, match="not a database") as caught:
        await open_and_close(path)
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert not caught.value.retryable
    assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    execute(path, "CREATE TABLE diary (page TEXT)")
    before = path.read_bytes()
    with pytest.raises(PersistenceError, match="the SQLite file of another program"):
        await open_and_close(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_a_database_with_another_version_of_the_schema_is_refused(path: Path) -> None:
    await open_and_close(path)
    execute(path, "PRAGMA user_version = 7")
    with pytest.raises(PersistenceError, match=r"has schema version 7; .* knows 1"):
        await open_and_close(path)


async def test_a_damaged_file_is_a_corrupt_record_wherever_it_is_damaged(path: Path) -> None:
    async with SQLiteStore(path) as store:
        for number in range(200):
            await store.set(f"k{number:03}", "x" * 500)
    whole = path.read_bytes()
    page = 4096
    damages = range(page, len(whole), 4 * page)
    found = 0
    for begin in damages:
        path.write_bytes(whole[:begin] + os.urandom(page) + whole[begin + page :])
        found += await is_corrupt(path)
    assert found > len(damages) / 2


async def is_corrupt(path: Path) -> bool:
    try:
        async with SQLiteStore(path) as store:
            for number in range(200):
                await store.get(f"k{number:03}")
            await store.keys()
            await store.clear()
    except CorruptRecordError:
        return True
    return False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nope",
        "[]",
        '{"no": "such field"}',
        "{}",
        "7",
        "null",
        '{"version":NaN,"fencing_token":1}',
    ],
)
async def test_a_record_that_cannot_be_understood_is_named(path: Path, text: str) -> None:
    async with SQLiteStore(path, key_prefix="a:") as store:
        assert await store.acquire("job", 30) is not None
        await store.record_failure("good", 9)
        execute(path, "UPDATE records SET content = ? WHERE kind = 'lock'", text)
        for operation in (store.acquire("job", 30), store.read_lock("job"), store.holder("job")):
            with pytest.raises(CorruptRecordError, match="the stored lock 'a:job'") as caught:
                await operation
            assert repr(str(path)) in " ".join(caught.value.__notes__)
        assert await store.record_failure("good", 9) == 2


async def test_a_cached_value_that_cannot_be_understood_is_a_corrupt_record(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", [1])
        execute(path, "UPDATE records SET content = '[1,'")
        with pytest.raises(CorruptRecordError, match=r"the stored value 'k' .* not JSON"):
            await store.get("k")
        await store.set("k", [2])
        assert await store.get("k") == [2]


async def test_a_read_only_file_can_be_read_and_not_written(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        await ask(store, "PRAGMA query_only = ON")
        for operation in (store.set("k", 2), store.acquire("k", 1), store.clear()):
            with pytest.raises(PersistenceError, match="readonly") as caught:
                await operation
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert not caught.value.retryable
        assert await store.get("k") == 1
        await ask(store, "PRAGMA query_only = OFF")
        await store.set("k", 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to read-only files")
async def test_a_file_without_write_permission_cannot_be_opened(path: Path) -> None:
    await open_and_close(path)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PersistenceError):
            async with SQLiteStore(path) as store:
                await store.set("k", 1)
    finally:
        path.parent.chmod(0o755)


async def test_a_full_disk_leaves_the_old_value(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", "old")
        (pages,) = await ask(store, "PRAGMA page_count")
        await ask(store, f"PRAGMA max_page_count = {pages}")
        with pytest.raises(PersistenceError, match="full") as caught:
            await store.set("k", "x" * 100_000)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert await store.get("k") == "old"
        await ask(store, "PRAGMA max_page_count = 1000000")
        await store.set("k", "x" * 100_000)


async def test_a_value_over_the_limit_is_too_large_and_leaves_the_old_one(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", "old")
        await store._file.run(lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000))
        with pytest.raises(RecordTooLargeError) as caught:
            await store.set("k", "x" * 20_000)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert await store.get("k") == "old"


async def test_an_error_in_a_transaction_rolls_it_back(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.record_failure("c", 9)
        execute(path, "UPDATE records SET content = 'nope'")
        with pytest.raises(CorruptRecordError):
            await store.record_failure("c", 9)
        assert not await store._file.run(lambda connection: connection.in_transaction)
        async with SQLiteStore(path, busy_timeout=0) as other:
            await other.set("k", 1)


async def test_a_key_that_is_no_text_is_left_out_of_lists_and_stops_no_sweep(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SQLiteStore(path) as store:
        await store.set("good", 1)
        for kind in ("cache", "circuit"):
            for key in ("CAST(x'67ff' AS TEXT)", "x'67'"):
                execute(path, f"INSERT INTO records VALUES ('{kind}', {key}, NULL, '1')")
        for number in range(3 * WRITES_PER_SWEEP):
            await store.set(f"h{number % 3}", 1)
        assert sorted(await store.keys()) == ["good", "h0", "h1", "h2"]
        assert await store.keys("g*") == ["good"]
        assert await store.circuits() == {}
        assert caplog.text.count("a corrupt record is left out") == 2
        await store.clear()
        assert await store.keys() == []


async def test_a_page_of_keys_that_are_no_text_hides_none_behind_it(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.set("z", 1)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany(
                "INSERT INTO records VALUES ('cache', CAST(? AS TEXT), NULL, '1')",
                [(b"a\xff%05d" % number,) for number in range(KEYS_PER_PAGE + 7)],
            )
        assert await store.keys() == ["z"]
        assert [key async for key in store.iterate_keys()] == ["z"]


async def test_clear_removes_what_is_no_key_too_within_its_prefix(path: Path) -> None:
    async def kept() -> list[bytes]:
        rows = await store._file.run(
            lambda connection: connection.execute(
                "SELECT CAST(key AS BLOB) FROM records"
            ).fetchall()
        )
        return sorted(key for (key,) in rows)

    async with SQLiteStore(path) as store, SQLiteStore(path, key_prefix="a:") as below:
        for key in (
            "x'613a67'",
            "x'ff'",
            "x''",
            "CAST(x'613a67ff' AS TEXT)",
            "CAST(x'ff' AS TEXT)",
        ):
            execute(path, f"INSERT INTO records VALUES ('cache', {key}, NULL, '1')")
        await below.set("mine", 1)
        await store.set("other", 1)
        await below.clear()
        assert await kept() == [b"", b"other", b"\xff", b"\xff"]
        await store.record_failure("c", 9)
        await store.clear()
        assert await kept() == [b"c"]


async def test_a_key_whose_value_is_corrupt_is_listed_so_that_it_can_be_found_and_removed(
    path: Path,
) -> None:
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        execute(path, "UPDATE records SET content = x'ff'")
        assert await store.keys() == ["k"]
        assert [key async for key in store.iterate_keys("k*")] == ["k"]
        with pytest.raises(CorruptRecordError, match="'k'"):
            await store.get("k")
        assert await store.delete("k") is True
        assert await store.keys() == []
