"""What is lost on the way to PostgreSQL: recognised where that can be, and told where it cannot."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from attrs import frozen

from gogoscope.exceptions import Effect, PersistenceError, StoreConnectionError, StoreTimeoutError
from gogoscope.persistence import CompareAndSwapRecords, Entry
from gogoscope.persistence.records.place import json_kind
from gogoscope.stores.postgres.client import Reply
from gogoscope.stores.postgres.store import PostgresStore
from tests.support.postgres_proxy import PostgresProxy
from tests.support.postgres_server import PostgresTable

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio")]

LOST_ANSWER = "answers dropped after the write"
LOST_REQUEST = "requests dropped"
NO_ANSWER = "answers swallowed"
DOUBLED = "answers doubled"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def proxy(postgres_engine: str) -> AsyncIterator[PostgresProxy]:
    proxy = PostgresProxy(random.Random(1))
    async with proxy.running(postgres_engine):
        yield proxy


@pytest.fixture
async def store(proxy: PostgresProxy, postgres_table: PostgresTable) -> AsyncIterator[Any]:
    async with opened(proxy, postgres_table) as store:
        proxy.requests.clear()
        yield store


def opened(
    proxy: PostgresProxy, table: PostgresTable, timeout: float = 1, **options: Any
) -> PostgresStore:
    return PostgresStore(
        proxy.url(table.database_url),
        table=table.name,
        create=True,
        request_timeout=timeout,
        **options,
    )


@pytest.mark.parametrize("fault", [LOST_ANSWER, LOST_REQUEST, NO_ANSWER, DOUBLED])
async def test_a_lock_whose_answer_was_lost_is_recognised_as_ones_own(
    store: Any, proxy: PostgresProxy, fault: str
) -> None:
    proxy.faults.append(fault)
    handle = await store.acquire("k", 10)
    assert handle is not None
    proxy.faults.append(fault)
    assert await handle.release()
    again = await store.acquire("k", 10)
    assert again.fencing_token > handle.fencing_token


@pytest.mark.parametrize("fault", [LOST_ANSWER, LOST_REQUEST, NO_ANSWER, DOUBLED])
async def test_every_change_of_a_value_survives_a_fault(
    store: Any, proxy: PostgresProxy, fault: str
) -> None:
    for value in range(4):
        proxy.faults.append(fault)
        await store.set("k", value)
        proxy.faults.append(fault)
        assert await store.get("k") == value
    proxy.faults.append(fault)
    assert await store.touch("k", 60)
    proxy.faults.append(fault)
    assert await store.delete("k")
    proxy.faults.append(fault)
    assert await store.get("k") is None
    proxy.faults.append(fault)
    assert await store.set("k", 1, if_absent=True)
    proxy.faults.append(fault)
    assert await store.keys() == ["k"]
    proxy.faults.append(fault)
    await store.clear()
    assert await store.keys() == []


async def test_a_read_that_is_never_answered_ends_with_its_budget(
    store: Any, proxy: PostgresProxy
) -> None:
    proxy.faults.extend([NO_ANSWER] * 10)
    with anyio.fail_after(15), pytest.raises(StoreTimeoutError, match="no answer"):
        await store.get("k")


async def test_a_write_that_is_never_answered_is_told_to_be_in_doubt(
    store: Any, proxy: PostgresProxy
) -> None:
    proxy.faults.extend([LOST_ANSWER] * 10)
    with pytest.raises(StoreTimeoutError) as caught:
        await store.set("k", 1)
    assert caught.value.effect is Effect.MAYBE_APPLIED


async def test_a_write_that_was_never_sent_is_not_in_doubt(
    proxy: PostgresProxy, postgres_table: PostgresTable
) -> None:
    async with opened(proxy, postgres_table) as store:
        store._client._drop_idle()
        store._client.conninfo = store._client.conninfo.replace(str(proxy.port), "1")
        with pytest.raises(StoreConnectionError) as caught:
            await store.set("k", 1)
        assert caught.value.__cause__ is not None
        assert caught.value.effect is not Effect.MAYBE_APPLIED


async def test_an_answer_that_comes_twice_is_not_that_to_the_next_request(
    store: Any, proxy: PostgresProxy
) -> None:
    await store.set("a", "the value of a")
    await store.set("b", "the value of b")
    for _ in range(5):
        proxy.faults.append(DOUBLED)
        assert await store.get("a") == "the value of a"
        assert await store.get("b") == "the value of b"
        proxy.faults.append(DOUBLED)
        assert await store.get("nothing") is None
        assert await store.get("a") == "the value of a"


async def test_a_connection_that_was_broken_while_idle_puts_nothing_in_doubt(
    postgres_table: PostgresTable,
) -> None:
    async with PostgresStore(
        postgres_table.database_url, table=postgres_table.name, create=True
    ) as store:
        await store.set("k", 1)
        postgres_table.execute(
            "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity "
            f"WHERE query LIKE 'INSERT INTO %{postgres_table.name}%'"
        )
        await anyio.sleep(0.1)
        entry = Entry("2", None, 6000, ("b",))
        reply = await store._entries._write(store._entries._statements.put, "cache", "j", entry)
        assert reply.rows
        assert not reply.in_doubt


async def test_a_cancelled_request_leaves_nothing_for_the_next_one(
    store: Any, proxy: PostgresProxy
) -> None:
    await store.set("a", "the value of a")
    for n in range(10):
        proxy.faults.append("answers delayed")
        with anyio.move_on_after(0.002 * n):
            await store.get("nothing")
        assert await store.get("a") == "the value of a"


async def test_a_write_that_lands_late_overwrites_nothing(
    store: Any, postgres_table: PostgresTable
) -> None:
    entries = store._entries
    late = Entry("late", None, 5000, ("late",))
    await entries.put("cache", "k", Entry("newer", None, 6000, ("newer",)))
    statements = entries._statements
    for statement, more in (
        (statements.put, ()),
        (statements.insert, ()),
        (statements.update, ("older",)),
    ):
        await entries._write(statement, "cache", "k", late, *more)
        assert (await entries.load("cache", "k")).text == "newer"


def lose_the_first_answer(
    entries: Any, monkeypatch: pytest.MonkeyPatch, since: Callable[[], Awaitable[Any]]
) -> None:
    """Let the next write be sent twice, and others write in between."""
    run = entries._client.run

    async def run_twice(*arguments: Any, **options: Any) -> Reply:
        monkeypatch.setattr(entries._client, "run", run)
        await run(*arguments, **options)
        await since()
        return Reply((await run(*arguments, **options)).rows, in_doubt=True)

    monkeypatch.setattr(entries._client, "run", run_twice)


async def test_a_value_that_was_replaced_after_its_answer_was_lost_is_not_set_again(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replace() -> None:
        await anyio.sleep(0.002 + 2 * store._entries.clock_error_ms() / 1000)
        await store.set("k", "theirs")

    lose_the_first_answer(store._entries, monkeypatch, replace)
    await store.set("k", "mine")
    assert await store.get("k") == "theirs"


async def test_a_value_that_was_changed_after_its_answer_was_lost_is_in_doubt(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def delete_and_add() -> None:
        await store.delete("k")
        await store.set("k", "theirs")
        await store.touch("k", 60)

    lose_the_first_answer(store._entries, monkeypatch, delete_and_add)
    with pytest.raises(StoreTimeoutError):
        await store.set("k", "mine")
    assert await store.get("k") == "theirs"


async def test_a_value_is_set_although_the_clock_went_back(store: Any) -> None:
    entries = store._entries
    await entries.put("cache", "k", Entry("from the future", None, 6000, ("a",)))
    await entries.put("cache", "k", Entry("now", None, 5000, ("b",)))
    found = await entries.load("cache", "k")
    assert (found.text, found.number) == ("now", 6001)


@frozen
class Count:
    n: int = 0


COUNT = json_kind("count", Count, lambda count, now_ms: None)


@asynccontextmanager
async def counting(
    proxy: PostgresProxy, table: PostgresTable, workers: int
) -> AsyncIterator[list[CompareAndSwapRecords]]:
    """Open stores that know nothing of one another, as those of several processes."""
    stores = [opened(proxy, table, timeout=2.0) for _ in range(workers)]
    async with AsyncExitStack() as stack:
        for store in stores:
            await stack.enter_async_context(store)
        yield [CompareAndSwapRecords(store._entries) for store in stores]


@pytest.mark.slow
async def test_counters_are_exact_or_in_doubt_though_many_answers_are_lost(
    postgres_engine: str, postgres_table: PostgresTable
) -> None:
    proxy = PostgresProxy(random.Random(3), {LOST_ANSWER: 0.35, "answers doubled": 0.05})
    done = in_doubt = 0

    async def work(records: CompareAndSwapRecords) -> None:
        nonlocal done, in_doubt
        for _ in range(40):
            try:
                await records.transact(COUNT, "k", lambda c, now: (Count((c or Count()).n + 1), 0))
                done += 1
            except StoreTimeoutError:
                in_doubt += 1

    async with proxy.running(postgres_engine), counting(proxy, postgres_table, 8) as places:
        proxy.faulty = True
        async with anyio.create_task_group() as group:
            for records in places:
                group.start_soon(work, records)
        proxy.faulty = False
        count = await places[0].read(COUNT, "k")
    assert count is not None
    print(f"{done} done, {in_doubt} in doubt, {proxy.done}, counted {count.n}")
    assert proxy.done[LOST_ANSWER] >= 100
    assert done <= count.n <= done + in_doubt
    assert in_doubt <= 32


async def test_nothing_but_our_errors_leaves_a_store_that_is_lied_to(
    store: Any, proxy: PostgresProxy
) -> None:
    proxy.faulty = True
    told: list[PersistenceError] = []
    for n in range(60):
        try:
            await store.set(f"k{n % 3}", n)
            await store.get(f"k{n % 3}")
        except PersistenceError as error:
            told.append(error)
    assert all(error.__cause__ is not None or "no answer" in str(error) for error in told)
