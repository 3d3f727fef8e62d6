"""``run.complete(connection=)``: a caller's write on PostgreSQL and the end of a run are one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import psycopg
import pytest

from gogoscope import (
    CapabilityNotSupportedError,
    LeaseLostError,
    Once,
    PersistenceError,
    RunError,
    scope,
)
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores import MemoryStore, PostgresStore
from gogoscope.testing import UnpluggableStore
from tests.support.clocks import MillisecondClock
from tests.support.postgres_server import PostgresTable

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> MillisecondClock:
    return MillisecondClock()


@pytest.fixture
async def store(
    postgres_table: PostgresTable, clock: MillisecondClock
) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(
        postgres_table.database_url, table=postgres_table.name, create=True, clock=clock
    ) as store:
        yield store


@pytest.fixture
async def elsewhere(
    store: PostgresStore, postgres_table: PostgresTable, clock: MillisecondClock
) -> AsyncIterator[PostgresStore]:
    """The same store in another process."""
    async with PostgresStore(
        postgres_table.database_url, table=postgres_table.name, clock=clock
    ) as store:
        yield store


@pytest.fixture
async def connection(
    postgres_table: PostgresTable,
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(
        postgres_table.database_url, autocommit=True
    ) as connection:
        await connection.execute("CREATE TEMPORARY TABLE ledger (amount int)")
        yield connection


async def charge(connection: psycopg.AsyncConnection[Any]) -> None:
    """Write what the caller writes itself."""
    await connection.execute("INSERT INTO ledger VALUES (10)")


async def amount(connection: psycopg.AsyncConnection[Any]) -> int:
    cursor = await connection.execute("SELECT coalesce(sum(amount), 0)::int FROM ledger")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def kept(store: PostgresStore, key: str = "charge") -> Any:
    """Return the result that another caller gets; fail if it would run."""

    async def runs() -> None:
        pytest.fail("it runs once more")

    async with scope(persistence=store) as s:
        return await s.call(runs, once=Once(key, 60))


async def is_open(store: PostgresStore) -> bool:
    """Return whether the next caller would run."""
    async with scope(persistence=store) as s, s.claim("charge", 60, wait=0) as run:
        if not run.done:
            run.complete("of the next caller")
        return not run.done


async def test_the_callers_write_and_the_completion_happen_both(
    store: PostgresStore, elsewhere: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        async with connection.transaction():
            await charge(connection)
            await run.complete({"receipt": [7, "\u00e9"]}, connection=connection)
            record = await elsewhere.read_run("charge")
            assert record is not None
            assert record.state == "running"
        assert run.result == {"receipt": [7, "\u00e9"]}
    assert await amount(connection) == 10
    assert await kept(elsewhere) == {"receipt": [7, "\u00e9"]}
    assert await kept(store) == {"receipt": [7, "\u00e9"]}


async def test_a_connection_that_begins_its_transactions_by_itself_will_do(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    await connection.set_autocommit(False)
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        await run.complete("receipt", connection=connection)
        await charge(connection)
        await connection.commit()
    assert await amount(connection) == 10
    assert await kept(store) == "receipt"


async def test_a_connection_may_have_another_encoding(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    await connection.execute("SET client_encoding TO latin1")
    async with (
        scope(persistence=store) as s,
        s.claim("charg\u00e9", 60) as run,
        connection.transaction(),
    ):
        await run.complete("re\u00e7u", connection=connection)
    assert await kept(store, "charg\u00e9") == "re\u00e7u"


async def test_neither_happens_if_the_transaction_is_rolled_back(
    store: PostgresStore, elsewhere: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(ValueError, match="broken"):
            async with s.claim("charge", 60) as run, connection.transaction():
                await charge(connection)
                await run.complete("receipt", connection=connection)
                raise ValueError("broken")
    assert await amount(connection) == 0
    assert await is_open(elsewhere)


async def test_a_transaction_that_was_rolled_back_in_the_block_is_an_error(
    store: PostgresStore, elsewhere: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(RunError, match="was not committed; the next caller runs"):
            async with s.claim("charge", 60) as run, connection.transaction(force_rollback=True):
                await charge(connection)
                await run.complete("receipt", connection=connection)
    assert await amount(connection) == 0
    assert await is_open(elsewhere)


async def test_a_transaction_that_ends_after_the_block_is_an_error_and_rolled_back(
    store: PostgresStore, elsewhere: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    with pytest.raises(RunError, match="commit it inside the block"):
        async with (
            scope(persistence=store) as s,
            connection.transaction(),
            s.claim("charge", 60) as run,
        ):
            await charge(connection)
            await run.complete("receipt", connection=connection)
    assert await amount(connection) == 0
    with anyio.fail_after(30):  # it is given up in the background
        while (await elsewhere.runs())["charge"].state == "running":
            await anyio.sleep(0.01)
    assert await is_open(elsewhere)


async def test_a_coroutine_that_nobody_awaits_completes_nothing(
    store: PostgresStore, elsewhere: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(RunError, match="was not committed"):
            async with s.claim("charge", 60) as run, connection.transaction():
                run.complete("receipt", connection=connection).close()
    assert await is_open(elsewhere)


async def test_a_renewal_before_and_one_after_do_no_harm(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        before = await store.read_run("charge")
        assert before is not None
        lease = before.lease
        assert lease.nonce is not None
        assert (await store.renew_run("charge", lease.nonce, lease.version, 30_000, 0)).granted
        async with connection.transaction():
            await run.complete("receipt", connection=connection)
        late = await store.renew_run("charge", lease.nonce, lease.version + 1, 30_000, 0)
        assert not late.granted
    assert await kept(store) == "receipt"


async def test_completing_it_ends_the_renewals_and_the_lease(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    counted = UnpluggableStore(store)
    async with scope(persistence=counted) as s, s.claim("charge", 60, lease=3) as run:
        async with connection.transaction():
            await run.complete("receipt", connection=connection)
        renewals = counted.requests["renew_run"]
        with anyio.fail_after(60):
            while not counted.requests["read_run"]:  # it asks whether it is done
                await anyio.sleep(0.01)
        assert counted.requests["renew_run"] == renewals
    assert await kept(store) == "receipt"


async def test_after_a_lost_answer_that_leaves_the_block_the_run_is_done_all_the_same(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(ConnectionError):
            async with s.claim("charge", 60) as run:
                async with connection.transaction():
                    await run.complete("receipt", connection=connection)
                raise ConnectionError("the answer to the commit was lost")
    assert await kept(store) == "receipt"


async def test_completing_it_again_after_a_lost_answer_changes_nothing(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        async with connection.transaction():
            await charge(connection)
            await run.complete("first", connection=connection)
        with pytest.raises(LeaseLostError):
            async with connection.transaction():
                await charge(connection)
                await run.complete("second", connection=connection)
    assert run.result == "first"
    assert await amount(connection) == 10
    assert await kept(store) == "first"


async def test_the_whole_transaction_of_a_zombie_is_rolled_back(
    store: PostgresStore,
    elsewhere: PostgresStore,
    clock: MillisecondClock,
    connection: psycopg.AsyncConnection[Any],
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.claim("charge", 60) as run, connection.transaction():
                await charge(connection)
                written = run.complete("of the zombie", connection=connection)
                clock.advance(3_600_000)
                claim = LockClaim(nonce="next", owner="next", lease_ms=30_000)
                assert (await elsewhere.claim_run("charge", claim)).granted
                await written
    assert await amount(connection) == 0
    receipt = elsewhere.run_outcome("of its successor")
    assert await elsewhere.complete_run("charge", "next", "done", receipt, 60)
    assert await kept(store) == "of its successor"


async def test_nobody_takes_a_run_over_whose_transaction_is_open(
    store: PostgresStore,
    elsewhere: PostgresStore,
    clock: MillisecondClock,
    connection: psycopg.AsyncConnection[Any],
) -> None:
    replies: list[Any] = []

    async def take_over() -> None:
        claim = LockClaim(nonce="next", owner="next", lease_ms=30_000)
        replies.append(await elsewhere.claim_run("charge", claim))

    async with (
        scope(persistence=store) as s,
        s.claim("charge", keep=None) as run,
        anyio.create_task_group() as group,
        connection.transaction(),
    ):
        await charge(connection)
        await run.complete("receipt", connection=connection)
        clock.advance(3_600_000)
        group.start_soon(take_over)
        await anyio.sleep(0.1)
        assert replies == []
    assert not replies[0].granted
    assert await amount(connection) == 10


async def test_a_lease_that_is_nearly_over_completes_nothing(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    counted = UnpluggableStore(store)
    async with scope(persistence=counted) as s:
        with pytest.raises(LeaseLostError):
            async with s.claim("charge", 60, lease=3) as run, connection.transaction():
                await charge(connection)
                counted.unplug()
                await anyio.sleep(2.2)
                await run.complete("receipt", connection=connection)
                pytest.fail("it was completed")
    assert await amount(connection) == 0


async def test_what_completes_nothing_is_refused_before_anything_is_sent(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        with pytest.raises(TypeError, match="AsyncConnection of psycopg, got one of type object"):
            await run.complete("receipt", connection=object())
        with pytest.raises(ValueError, match="must have a transaction open"):
            await run.complete("receipt", connection=connection)
        async with connection.pipeline(), connection.transaction():
            with pytest.raises(ValueError, match="must not be in pipeline mode"):
                await run.complete("receipt", connection=connection)
        async with connection.transaction():
            with pytest.raises(TypeError, match="tuple"):
                await run.complete((1, 2), connection=connection)
        with pytest.raises(CapabilityNotSupportedError, match="does not support transact_item"):
            run.transact_item("receipt")
        run.complete("plain")
    assert await kept(store) == "plain"


async def test_a_statement_that_fails_raises_one_of_our_errors(
    store: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(PersistenceError, match="transaction is aborted") as caught:
            async with s.claim("charge", 60) as run, connection.transaction():
                with pytest.raises(psycopg.Error):
                    await connection.execute("SELECT 1 / 0")
                await run.complete("receipt", connection=connection)
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert await is_open(store)


async def test_a_job_is_saved_with_the_callers_write(
    store: PostgresStore, elsewhere: PostgresStore, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(ValueError, match="broken"):
            async with s.job("import", {"after": 0}, lease=6) as job:
                for after in (1, 2):
                    async with connection.transaction():
                        await charge(connection)
                        await job.save({"after": after}, connection=connection)
                await job.save({"after": 3})
                before = await store.read_job("import")
                with anyio.fail_after(60):
                    while await store.read_job("import") == before:  # it is renewed
                        await anyio.sleep(0.05)
                async with connection.transaction():
                    await charge(connection)
                    await job.save({"after": 4}, connection=connection)
                    raise ValueError("broken")
    assert await amount(connection) == 20
    async with scope(persistence=elsewhere) as t, t.job("import", wait=0) as again:
        assert again.state == {"after": 3}


async def test_a_job_that_was_taken_over_saves_nothing_on_a_connection(
    store: PostgresStore,
    elsewhere: PostgresStore,
    clock: MillisecondClock,
    connection: psycopg.AsyncConnection[Any],
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.job("import", 0) as job, connection.transaction():
                await charge(connection)
                clock.advance(3_600_000)
                claim = LockClaim(nonce="next", owner="next", lease_ms=30_000)
                assert (await elsewhere.claim_job("import", claim, 1)).granted
                clock.advance(-3_600_000)
                await job.save(1, connection=connection)
    assert await amount(connection) == 0
    record = await elsewhere.read_job("import")
    assert record is not None
    assert record.saves == 0


async def test_stores_that_cannot_join_say_so_at_once() -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        async with s.claim("charge", 60) as run:
            with pytest.raises(CapabilityNotSupportedError, match="transact_item"):
                run.transact_item(1)
            with pytest.raises(CapabilityNotSupportedError, match="complete"):
                await run.complete(1, connection=object())
            run.complete(2)
        async with s.job("import") as job:
            with pytest.raises(CapabilityNotSupportedError, match="transact_item"):
                job.transact_item(1)
            with pytest.raises(CapabilityNotSupportedError, match="save"):
                await job.save(1, connection=object())
