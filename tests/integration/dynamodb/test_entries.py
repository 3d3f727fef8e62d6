"""Entries in a table: as they are stored, and counted though many answers are lost."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest

from gogoscope.exceptions import CorruptRecordError, RecordTooLargeError, StoreTimeoutError
from gogoscope.persistence import CompareAndSwapRecords, Entry
from gogoscope.testing.conformance.entries import COUNT, increment
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from gogoscope_dynamodb.entries import Entries
from gogoscope_dynamodb.requests import Table
from tests.support.clocks import START_MS, MillisecondClock
from tests.support.dynamodb_faults import FaultyClient, Perform, lose_response, losing

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio")]


@pytest.fixture
def entries(faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock) -> Entries:
    return Entries(Table(dynamodb_table, faulty_client, 5), clock)


async def test_an_entry_is_one_item_with_a_version_and_a_time_to_live(
    entries: Entries, dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> None:
    entry = Entry('{"n":1}', START_MS + 1, 7, ("-", "a", "b"))
    await entries.put("run", "app:k", entry)
    answer = await dynamodb_client.get_item(
        TableName=dynamodb_table, Key={"pk": {"S": "RUN#app:k"}, "sk": {"S": "METADATA"}}
    )
    assert answer["Item"] == {
        "pk": {"S": "RUN#app:k"},
        "sk": {"S": "METADATA"},
        "version": {"N": "7"},
        "expiresAt": {"N": str(START_MS // 1000 + 1 + 86_400)},
        "data": {
            "M": {
                "json": {"S": '{"n":1}'},
                "by": {"S": "b"},
                "writers": {"S": "-,a,b"},
                "until": {"N": str(START_MS + 1)},
                "format": {"N": "1"},
            }
        },
    }


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"json": {"N": "1"}},
        {"format": {"N": "2"}},
        {"writers": {"L": []}},
        {"until": {"S": "later"}},
        {"until": {"N": "1.5"}},
        {"until": {"N": "1E+60"}},
    ],
)
async def test_an_item_that_is_no_entry_is_a_corrupt_record(
    entries: Entries, dynamodb_client: DynamoDBClient, dynamodb_table: str, data: dict[str, object]
) -> None:
    await entries.put("run", "k", Entry("{}", None, 7, ("a",)))
    key = {"pk": {"S": "RUN#k"}, "sk": {"S": "METADATA"}}
    answer = await dynamodb_client.get_item(TableName=dynamodb_table, Key=key)
    stored = answer["Item"]
    stored["data"] = {"M": {**stored["data"]["M"], **data}} if data else {"M": {}}
    await dynamodb_client.put_item(TableName=dynamodb_table, Item=stored)
    with pytest.raises(CorruptRecordError, match="run 'k'"):
        await entries.load("run", "k")
    with pytest.raises(CorruptRecordError, match="run 'k'"):
        await entries.swap("run", "k", None, Entry("{}", None, 8, ("b",)))
    assert await entries.keys("run", "", None) == (["k"], None)
    await entries.clear("run", "")
    assert await entries.load("run", "k") is None


async def test_an_entry_that_is_too_large_is_not_sent(
    entries: Entries, faulty_client: FaultyClient
) -> None:
    large = Entry("x" * 409_600, None, 1, ("a",))
    for write in (entries.put("run", "k", large), entries.swap("run", "k", None, large)):
        with pytest.raises(RecordTooLargeError, match="run 'k' makes an item of 409,"):
            await write
    assert faulty_client.calls == []


async def test_a_put_whose_answer_was_lost_is_recognised(
    entries: Entries, faulty_client: FaultyClient
) -> None:
    faulty_client.faults.append(lose_response)
    await entries.put("run", "k", Entry("{}", None, 1, ("a",)))
    assert faulty_client.operations == ["put_item"] * 2


async def test_a_put_whose_answer_was_lost_undoes_nothing_that_others_wrote(
    entries: Entries, faulty_client: FaultyClient
) -> None:
    after = Entry("after", None, 2, ("a", "b"))

    async def lose_and_write(perform: Perform) -> Any:
        await perform()
        assert (await entries.swap("run", "k", put, after)).swapped
        raise ConnectionResetError("the answer was lost")

    put = Entry("put", None, 1, ("a",))
    faulty_client.faults.append(lose_and_write)
    with pytest.raises(StoreTimeoutError, match="run 'k' may have been replaced"):
        await entries.put("run", "k", put)
    assert await entries.load("run", "k") == after


async def test_a_change_that_nobody_disputes_is_one_request(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    records = store._records
    for n in range(1, 4):
        assert await records.transact(COUNT, "k", increment) == n
    assert faulty_client.operations == ["put_item"] * 3


async def test_a_ping_is_one_read(store: DynamoDBAdapter, faulty_client: FaultyClient) -> None:
    await store.ping()
    assert faulty_client.operations == ["get_item"]


@pytest.mark.slow
async def test_counters_are_exact_though_most_answers_are_lost(
    faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock
) -> None:
    choose = random.Random(7)
    lost = confirmed = doubtful = 0

    def lose() -> bool:
        nonlocal lost
        loses = choose.random() < 0.35
        lost += loses
        return loses

    faulty_client.constant_faults["put_item"] = losing(lose)

    async def count() -> None:
        nonlocal confirmed, doubtful
        records = CompareAndSwapRecords(Entries(Table(dynamodb_table, faulty_client, 5), clock))
        for _ in range(40):
            try:
                await records.transact(COUNT, "k", increment)
                confirmed += 1
            except StoreTimeoutError:
                doubtful += 1

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(count)
    faulty_client.constant_faults.clear()
    place = Entries(Table(dynamodb_table, faulty_client, 5), clock)
    counted = await CompareAndSwapRecords(place).read(COUNT, "k")
    assert counted is not None
    print(f"{confirmed=} {doubtful=} {lost=} counted={counted.n} puts={len(faulty_client.calls)}")
    assert lost > 170
    assert confirmed <= counted.n <= confirmed + doubtful
    assert doubtful <= 20


async def test_a_clear_that_lands_late_removes_nothing_newer(
    entries: Entries, faulty_client: FaultyClient
) -> None:
    await entries.put("run", "k", Entry("old", None, 7, ("a",)))
    await entries.clear("run", "")
    name, late = faulty_client.calls[-1]
    assert name == "delete_item"
    await entries.put("run", "k", Entry("new", None, 8, ("b",)))
    with pytest.raises(Exception, match="conditional"):
        await faulty_client.delete_item(**late)
    found = await entries.load("run", "k")
    assert found is not None
    assert found.text == "new"
