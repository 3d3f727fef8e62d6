"""A store on PostgreSQL: its table, errors and life, poolers, and servers that come back."""

from __future__ import annotations

import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from attrs import frozen
from psycopg import AsyncConnection

from gogoscope import open_persistence, scope
from gogoscope.exceptions import (
    ConfigurationError,
    CorruptRecordError,
    Effect,
    PersistenceError,
    StoreConnectionError,
    StoreTimeoutError,
)
from gogoscope.persistence import KEEP_MS, CompareAndSwapRecords
from gogoscope.persistence.records.place import json_kind
from gogoscope.stores.postgres import entries
from gogoscope.stores.postgres.store import PostgresStore
from tests.support.postgres_server import (
    PostgresServer,
    PostgresTable,
    execute,
    new_table_name,
    running_pgbouncer,
    running_postgres,
)

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(postgres_table: PostgresTable) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(
        postgres_table.database_url, table=postgres_table.name, create=True
    ) as store:
        yield store


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own."""
    with running_postgres() as server:
        yield server


@frozen
class Count:
    n: int = 0


COUNT = json_kind("count", Count, lambda count, now_ms: None)


async def count_up(store: PostgresStore, times: int) -> tuple[int, int]:
    """Count up, each time in a change of its own; return how many were done, and in doubt."""
    records = CompareAndSwapRecords(store._entries)
    done = in_doubt = 0
    for _ in range(times):
        try:
            await records.transact(COUNT, "k", lambda c, now: (Count((c or Count()).n + 1), None))
            done += 1
        except PersistenceError as error:
            in_doubt += error.effect is Effect.MAYBE_APPLIED
    return done, in_doubt


async def counted(store: PostgresStore) -> int:
    count = await CompareAndSwapRecords(store._entries).read(COUNT, "k")
    return 0 if count is None else count.n


async def test_a_table_that_is_missing_is_named_with_the_option_that_makes_it(
    postgres_table: PostgresTable,
) -> None:
    url = postgres_table.url.replace("&create=true", "")
    with pytest.raises(ConfigurationError, match=f"no table .*{postgres_table.name}.*create=true"):
        async with open_persistence(url):
            pass
    async with open_persistence(postgres_table.url):
        pass
    async with open_persistence(url) as store:
        await store.ping()


async def test_the_table_may_be_made_as_the_documentation_shows(
    postgres_table: PostgresTable,
) -> None:
    page = (Path(__file__).parents[4] / "docs/pages/stores.md").read_text(encoding="utf-8")
    shown = page.partition("```sql")[2].partition("```")[0]
    postgres_table.execute(shown.replace("TABLE gogoscope", f"TABLE {postgres_table.name}"))
    async with open_persistence(postgres_table.url.replace("&create=true", "")) as store:
        await store.set("k", 1)
    columns = "SELECT column_name, data_type, collation_name, is_nullable FROM information_schema"
    made = postgres_table.execute(f"{columns}.columns WHERE table_name = '{postgres_table.name}'")
    postgres_table.drop()
    async with open_persistence(postgres_table.url) as store:
        await store.set("k", 1)
    assert made == postgres_table.execute(
        f"{columns}.columns WHERE table_name = '{postgres_table.name}'"
    )


async def test_many_may_make_one_table_at_once(postgres_table: PostgresTable) -> None:
    async def use(n: int) -> None:
        async with PostgresStore(
            postgres_table.database_url, table=postgres_table.name, create=True
        ) as store:
            await store.set(str(n), n)

    async with anyio.create_task_group() as group:
        for n in range(8):
            group.start_soon(use, n)
    async with open_persistence(postgres_table.url) as store:
        assert len(await store.keys()) == 8


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("gogoscope, version 2", "has version 2, so use another gogoscope"),
        ("orders of the shop", "another program's"),
        ("", "another program's"),
    ],
)
async def test_a_table_of_another_version_or_program_is_refused_untouched(
    postgres_table: PostgresTable, comment: str, message: str
) -> None:
    name = postgres_table.name
    postgres_table.execute(f"CREATE TABLE {name} (a int); COMMENT ON TABLE {name} IS '{comment}'")
    with pytest.raises(ConfigurationError, match=message):
        async with open_persistence(postgres_table.url):
            pass
    assert postgres_table.execute(f"SELECT count(*) FROM {name}") == [(0,)]


async def test_a_database_that_cannot_keep_every_key_is_refused(server: PostgresServer) -> None:
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    url = f"{server.url.rpartition('/')[0]}/latin"
    with pytest.raises(ConfigurationError, match="has the encoding LATIN1, but keys need UTF8"):
        async with open_persistence(f"{url}?create=true"):
            pass


async def test_a_wrong_password_or_database_is_told_without_the_password(
    server: PostgresServer,
) -> None:
    wrong = f"postgresql://postgres:hunter2@127.0.0.1:{server.port}/postgres"
    nobodys = f"{server.url.rpartition('/')[0]}/nobodys"
    for url, message in ((wrong, "password"), (nobodys, "nobodys")):
        with pytest.raises(ConfigurationError, match=message) as caught:
            async with open_persistence(url):
                pass
        told = "".join(traceback.format_exception(caught.value))
        assert "hunter2" not in told
        assert "p@ss" not in told
        assert caught.value.__cause__ is not None


async def test_a_server_that_is_not_there_is_a_connection_error(server: PostgresServer) -> None:
    server.stop()
    with pytest.raises(StoreConnectionError, match="failed after"):
        async with open_persistence(f"{server.url}?request_timeout=0.2"):
            pass
    server.start()


async def test_options_of_libpq_reach_it(
    postgres_table: PostgresTable,
) -> None:
    async with open_persistence(f"{postgres_table.url}&application_name=my%20app") as store:
        await store.ping()
        names = postgres_table.execute("SELECT application_name FROM pg_stat_activity")
        assert ("my app",) in names


async def test_a_server_that_only_reads_is_not_written_to(postgres_table: PostgresTable) -> None:
    async with open_persistence(postgres_table.url):
        pass
    read_only = "options=-c%20default_transaction_read_only%3Don&request_timeout=0.2"
    async with open_persistence(
        f"{postgres_table.url.replace('&create=true', '')}&{read_only}"
    ) as store:
        assert await store.get("k") is None
        with pytest.raises(StoreConnectionError, match="read-only") as caught:
            await store.set("k", 1)
        assert caught.value.effect is Effect.FAILED


async def test_strict_isolation_by_default_changes_nothing(postgres_table: PostgresTable) -> None:
    strict = "options=-c%20default_transaction_isolation%3Dserializable"
    async with open_persistence(f"{postgres_table.url}&{strict}") as opened:
        store: Any = opened
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(count_up, store, 10)
        assert await counted(store) == 60


async def test_rows_are_removed_an_hour_after_nobody_needs_them(
    store: PostgresStore, postgres_table: PostgresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "WRITES_PER_SWEEP", 1)
    await store.set("needed", 1)
    for n in range(50):
        await store.set(f"gone{n}", n, ttl=0.001)
    name = postgres_table.name
    assert postgres_table.execute(f"SELECT count(*) FROM {name}") == [(51,)]
    past = f"purge_at = purge_at - {KEEP_MS}"
    postgres_table.execute(f"UPDATE {name} SET {past} WHERE key <> 'needed'")
    for _ in range(20):
        await store.set("needed", 2)
    assert postgres_table.execute(f"SELECT key FROM {name}") == [("needed",)]


async def replace(store: PostgresStore) -> None:
    """Replace a lock and a value, both under ``k``, that cannot be understood."""
    await store.force_release("k")
    assert await store.acquire("k", 60) is not None
    await store.set("k", 2)
    assert await store.get("k") == 2


async def test_a_row_of_another_format_is_corrupt_and_can_be_replaced(
    store: PostgresStore, postgres_table: PostgresTable
) -> None:
    await store.set("k", 1)
    assert await store.acquire("k", 60) is not None
    postgres_table.execute(f"UPDATE {postgres_table.name} SET format = 7, writer = 'another'")
    with pytest.raises(CorruptRecordError, match=r"'k'.*format is 7"):
        await store.get("k")
    with pytest.raises(CorruptRecordError, match="format is 7"):
        await store.acquire("k", 1)
    await replace(store)


async def test_a_number_that_cannot_grow_is_corrupt_and_can_be_replaced(
    store: PostgresStore, postgres_table: PostgresTable
) -> None:
    await store.set("k", 1)
    assert await store.acquire("k", 60) is not None
    assert (await store.reserve_rate("k", 1, 10, 0)).granted
    postgres_table.execute(f"UPDATE {postgres_table.name} SET number = {2**63 - 1}")
    with pytest.raises(CorruptRecordError, match=r"'k'.*number"):
        await store.get("k")
    with pytest.raises(CorruptRecordError, match="number"):
        await store.acquire("k", 1)
    with pytest.raises(CorruptRecordError, match="number"):
        await store.reserve_rate("k", 1, 10, 0)
    await replace(store)


async def test_a_row_whose_writer_is_unknown_is_corrupt_and_can_be_replaced(
    store: PostgresStore, postgres_table: PostgresTable
) -> None:
    await store.set("k", 1)
    assert await store.acquire("k", 60) is not None
    postgres_table.execute(f"UPDATE {postgres_table.name} SET writer = 'another'")
    with anyio.fail_after(60):
        with pytest.raises(CorruptRecordError, match=r"'k'.*writer"):
            await store.get("k")
        with pytest.raises(CorruptRecordError, match="writer"):
            await store.acquire("k", 1)
    await replace(store)


async def test_a_clear_that_lands_late_removes_nothing_that_was_written_since(
    store: PostgresStore, postgres_table: PostgresTable
) -> None:
    await store.set("k", 1)
    async with PostgresStore(
        postgres_table.database_url, table=postgres_table.name, request_timeout=0.2
    ) as other:
        async with await AsyncConnection.connect(postgres_table.database_url) as writing:
            await store.joined(writing).set("k", 2)
            with pytest.raises(StoreTimeoutError) as caught:
                await other.clear()  # it waits for the transaction, and goes on waiting
            assert caught.value.effect is Effect.MAYBE_APPLIED
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%DELETE FROM%'"
        waiting += f" AND query LIKE '%{postgres_table.name}%' AND state = 'active' AND pid <> "
        with anyio.fail_after(20):
            while postgres_table.execute(f"{waiting} pg_backend_pid()") != [(0,)]:
                await anyio.sleep(0.05)
    assert await store.get("k") == 2


async def test_closing_is_completed_though_cancelled_while_somebody_waits(
    postgres_table: PostgresTable,
) -> None:
    store = PostgresStore(postgres_table.database_url, table=postgres_table.name, create=True)
    await store.__aenter__()
    await store.set("k", 1)
    store._watch("lock", "k", lambda: None)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.aclose()
    assert not store._client._idle
    async with store:
        assert await store.get("k") == 1


async def test_a_key_may_have_2048_bytes(store: PostgresStore) -> None:
    await store.set("é" * 1024, 1)
    assert await store.keys() == ["é" * 1024]
    with pytest.raises(ValueError, match="at most 2048 bytes with its prefix, got 2050"):
        await store.set("é" * 1025, 1)


class NulCodec:
    def dumps(self, value: Any) -> str:
        return "\0"

    def loads(self, text: str) -> Any:
        return text


async def test_what_postgresql_cannot_keep_is_refused_by_name(
    postgres_table: PostgresTable,
) -> None:
    async with PostgresStore(
        postgres_table.database_url, table=postgres_table.name, create=True, codec=NulCodec()
    ) as store:
        with pytest.raises(PersistenceError, match="cache 'k' contains NUL"):
            await store.set("k", 1)


async def test_a_large_value_comes_back(store: PostgresStore) -> None:
    value = ["x" * 1000] * 3000
    await store.set("k", value)
    assert await store.get("k") == value


FORKED = """
import multiprocessing, sys
import anyio, anyio.to_thread
from gogoscope import open_persistence
from gogoscope.exceptions import PersistenceError

async def in_the_fork(store):
    try:
        await store.get("k")
    except PersistenceError as error:
        assert "is a fork" in str(error), error
    else:
        raise AssertionError("the fork could use its parent's store")
    await store.aclose()
    async with open_persistence(sys.argv[1]) as own:
        assert await own.get("k") == 1
        await own.set("k", 2)

async def main():
    async with open_persistence(sys.argv[1]) as store:
        await store.set("k", 1)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=lambda: anyio.run(in_the_fork, store))
        await anyio.to_thread.run_sync(child.start)
        await anyio.to_thread.run_sync(child.join)
        assert child.exitcode == 0
        assert await store.get("k") == 2
        await store.set("k", 3)

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
async def test_a_fork_cannot_use_its_parents_store_and_does_it_no_harm(postgres_url: str) -> None:
    command = [sys.executable, "-c", FORKED, postgres_url]
    result = await anyio.run_process(command, check=False, stderr=subprocess.PIPE)
    assert result.returncode == 0, result.stderr.decode()
    assert not result.stderr


async def test_closing_waits_for_nobody_and_leaves_no_connection(
    postgres_table: PostgresTable,
) -> None:
    store = PostgresStore(
        f"{postgres_table.database_url}?application_name={postgres_table.name}",
        table=postgres_table.name,
        create=True,
    )
    slow = b'SELECT clock_timestamp() AS "%TAG", pg_sleep(0.3)::text'
    async with anyio.create_task_group() as group:
        async with store:
            await store.set("k", 1)
            group.start_soon(store._client.run, slow)
            await anyio.sleep(0.1)
        with pytest.raises(PersistenceError, match="is not open"):
            await store.get("k")
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
    with anyio.fail_after(20):
        while postgres_table.execute(f"{left}'{postgres_table.name}'") != [(0,)]:
            await anyio.sleep(0.05)


@pytest.fixture
def pooled_url(server: PostgresServer) -> Iterator[str]:
    """The URL of a pgbouncer that lends connections for one transaction."""
    with running_pgbouncer(server.port) as url:
        yield url


async def test_it_works_through_a_pooler_that_lends_connections_for_one_transaction(
    pooled_url: str,
) -> None:
    async def load() -> int:
        return 7

    async with (
        PostgresStore(pooled_url, create=True) as first,
        PostgresStore(pooled_url) as second,
    ):
        async with anyio.create_task_group() as group:
            for store in (first, second):
                for _ in range(6):
                    group.start_soon(count_up, store, 5)
        assert await counted(second) == 60
        async with scope(persistence=first) as s:
            async with s.lock("k", ttl=5) as locked:
                assert await second.acquire("k", 1) is None
                locked.ensure()
            assert await s.cache.get_or_set("v", load, 60) == 7
        await second.record_failure("c", 3)
        assert len(await first.circuits()) == 1
        assert execute(pooled_url, "SELECT count(*) FROM pg_prepared_statements") == [(0,)]


async def test_a_lock_and_a_counter_outlive_a_restart_of_the_server(
    server: PostgresServer,
) -> None:
    async with PostgresStore(server.url, create=True, table=new_table_name()) as store:
        handle = await store.acquire("k", 60)
        assert handle is not None
        outcome: list[tuple[int, int]] = []

        async def count() -> None:
            outcome.append(await count_up(store, 150))

        for end in (server.kill, server.stop):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(count)
                await anyio.sleep(0.1)
                await anyio.to_thread.run_sync(end)
                await anyio.to_thread.run_sync(server.start)
        done = sum(one for one, _ in outcome)
        in_doubt = sum(one for _, one in outcome)
        assert done <= await counted(store) <= done + in_doubt
        assert done > 1000
        assert await store.acquire("k", 1) is None
        assert await handle.extend(60)
        assert await handle.release()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals on Windows")
async def _set_once_it_answers(store: PostgresStore, key: str, value: Any) -> None:
    # First it begins, and ends, the connections of those who gave up.
    with anyio.fail_after(20):
        while True:
            with suppress(StoreTimeoutError):
                await store.set(key, value)
                return


async def test_a_server_that_stands_still_ends_requests_in_time_and_is_used_again(
    server: PostgresServer,
) -> None:
    async with PostgresStore(server.url, create=True, request_timeout=0.2) as store:
        await store.set("k", 1)
        server.signal(signal.SIGSTOP)
        try:
            with anyio.fail_after(10):
                with pytest.raises(StoreTimeoutError) as caught:
                    await store.set("k", 2)
                assert caught.value.effect is Effect.MAYBE_APPLIED
                with pytest.raises(StoreTimeoutError):
                    await store.acquire("k", 1)
        finally:
            server.signal(signal.SIGCONT)
        await _set_once_it_answers(store, "k", 3)
        await anyio.sleep(0.3)
        assert await store.get("k") == 3
