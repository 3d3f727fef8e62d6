"""Rate limits in DynamoDB: one request for each, lost answers, other writers, and wrong clocks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import CorruptRecordError, RateLimit, scope
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateReply
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import open_client
from tests.support.clocks import MillisecondClock, WrongClock
from tests.support.dynamodb_faults import FaultyClient, Perform, lose_response, never_answer
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio

COST = 100_000
BURST = 4 * COST
SECOND = 1_000_000
DAY_MS = 86_400_000
LOST = pytest.mark.parametrize("lost", [lose_response, never_answer])


@pytest.fixture
def other(
    faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock
) -> DynamoDBAdapter:
    """The store of another process."""
    return DynamoDBAdapter(faulty_client.client, dynamodb_table, clock=clock, request_timeout=5)


@pytest.fixture
def impatient(
    faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock
) -> DynamoDBAdapter:
    return DynamoDBAdapter(faulty_client, dynamodb_table, clock=clock, request_timeout=1)


async def ask(store: DynamoDBAdapter, wait_us: int = 0) -> RateReply:
    return await store.reserve_rate("limit", COST, BURST, wait_us)


async def tat_of(store: DynamoDBAdapter) -> int:
    found = await store.read_rate("limit")
    assert found is not None
    return found.tat_us


async def item_of(client: FaultyClient, table: str) -> dict[str, Any]:
    key = {"pk": {"S": "RATE#limit"}, "sk": {"S": "METADATA"}}
    found = await client.client.get_item(TableName=table, Key=key)
    item: dict[str, Any] = found["Item"]
    return item


async def test_each_is_one_write_as_long_as_nobody_else_writes(
    store: DynamoDBAdapter, faulty_client: FaultyClient, clock: MillisecondClock
) -> None:
    replies = []
    for passed in (0, 0, 50, 5_000, 0, 5_000, 5_000, 100, 0):
        clock.advance(passed)
        replies.append(await ask(store, SECOND))
    assert all(reply.granted for reply in replies)
    assert faulty_client.operations == ["update_item"] * 9
    assert await store.return_rate("limit", replies[-1].tat_us, COST)
    assert await store.return_rate("limit", replies[-1].tat_us - COST, COST)
    assert (await store.pause_rate("limit", SECOND, BURST)).granted
    assert not (await ask(store)).granted
    assert faulty_client.operations == ["update_item"] * 13


async def test_a_guess_that_was_wrong_is_one_write_more_and_is_learnt_from(
    store: DynamoDBAdapter,
    other: DynamoDBAdapter,
    faulty_client: FaultyClient,
    clock: MillisecondClock,
) -> None:
    counts = []
    for _ in range(6):
        await ask(other)
        before = len(faulty_client.calls)
        assert (await ask(store)).granted
        counts.append(len(faulty_client.calls) - before)
        clock.advance(60_000)
    assert counts == [2, 2, 1, 1, 1, 1]
    counts = []
    for _ in range(4):
        before = len(faulty_client.calls)
        assert (await ask(store)).granted
        counts.append(len(faulty_client.calls) - before)
        clock.advance(60_000)
    assert counts == [2, 2, 1, 1]


async def test_what_never_fits_is_one_read(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    reply = await store.reserve_rate("limit", BURST + 1, BURST, 0)
    assert not reply.granted
    assert faulty_client.operations == ["get_item"]


async def test_an_item_says_its_format_and_is_kept_a_day_longer_than_it_counts(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    dynamodb_table: str,
    clock: MillisecondClock,
) -> None:
    uses: list[Callable[[], Awaitable[RateReply]]] = [
        lambda: ask(store),
        lambda: ask(store, 100 * SECOND),
        lambda: store.pause_rate("limit", 500 * SECOND, BURST),
        lambda: store.pause_rate("limit", LONGEST_WAIT_US, BURST),
        lambda: ask(store, LONGEST_WAIT_US),
    ]
    for use in uses:
        reply = await use()
        item = await item_of(faulty_client, dynamodb_table)
        data = item["data"]["M"]
        assert data["format"] == {"N": "1"}
        assert int(data["tat"]["N"]) == reply.tat_us
        assert int(item["expiresAt"]["N"]) * 1000 >= reply.tat_us // 1000 + DAY_MS
        clock.advance(10)


@LOST
async def test_a_reservation_whose_answer_was_lost_is_made_once(
    impatient: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, lost: Any
) -> None:
    for n in range(1, 5):
        faulty_client.faults.append(lost)
        reply = await ask(impatient)
        assert reply.granted
        assert reply.tat_us - reply.now_us == n * COST
        assert await tat_of(other) == reply.tat_us
    faulty_client.faults.append(lost)
    assert not (await ask(impatient)).granted


@LOST
async def test_a_pause_whose_answer_was_lost_is_made_once(
    impatient: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, lost: Any
) -> None:
    await ask(impatient, SECOND)
    faulty_client.faults.append(lost)
    reply = await impatient.pause_rate("limit", SECOND, BURST)
    assert reply.until_us - reply.now_us == SECOND
    assert await tat_of(other) == reply.tat_us == reply.until_us + BURST


async def test_a_place_that_others_came_after_when_its_answer_was_lost_is_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    await ask(other)

    async def lose_and_let_another_come(perform: Perform) -> Any:
        await perform()
        await ask(other)
        raise ConnectionResetError("the answer was lost")

    faulty_client.faults.append(lose_and_let_another_come)
    await ask(store)  # its guess was wrong
    faulty_client.faults.append(lose_and_let_another_come)
    reply = await ask(store, SECOND)
    assert reply.granted
    assert reply.tat_us == await tat_of(other)
    granted = 5
    assert reply.tat_us - reply.now_us >= granted * COST


@LOST
async def test_a_place_whose_return_was_not_answered_is_returned_once(
    impatient: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, lost: Any
) -> None:
    await ask(impatient)
    place = await ask(impatient)
    faulty_client.faults.append(lost)
    assert await impatient.return_rate("limit", place.tat_us, COST)
    assert await tat_of(other) == place.tat_us - COST


async def test_nothing_that_another_has_reserved_since_is_returned(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    place = await ask(store)

    async def lose_and_let_another_come(perform: Perform) -> Any:
        await perform()
        assert (await ask(other)).tat_us == place.tat_us
        raise ConnectionResetError("the answer was lost")

    faulty_client.faults.append(lose_and_let_another_come)
    assert not await store.return_rate("limit", place.tat_us, COST)
    assert await tat_of(other) == place.tat_us


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": {"S": "x"}},
        {"data": {"M": {}}},
        {"version": {"S": "1"}},
        {"format": {"N": "2"}},
        {"tat": {"S": "1"}},
        {"tat": {"N": "1" * 30}},
        {"until": {"BOOL": True}},
    ],
    ids=str,
)
async def test_an_item_that_cannot_be_understood_is_corrupt(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    dynamodb_table: str,
    wrong: dict[str, Any],
) -> None:
    await ask(store)
    item = await item_of(faulty_client, dynamodb_table)
    inside = {name: value for name, value in wrong.items() if name not in item}
    outside = {name: value for name, value in wrong.items() if name in item}
    item = {**item, "data": {"M": {**item["data"]["M"], **inside}}, **outside}
    await faulty_client.client.put_item(TableName=dynamodb_table, Item=item)
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: store.read_rate("limit"),
        lambda: ask(store),
        lambda: store.pause_rate("limit", SECOND, BURST),
        lambda: store.return_rate("limit", 1, COST),
    ]
    for use in uses:
        await faulty_client.client.put_item(TableName=dynamodb_table, Item=item)
        with pytest.raises(CorruptRecordError, match="RATE#limit"):
            await use()
    assert await store.rate_limits() == {}


@pytest.mark.parametrize("wrong", [{"by": {"N": "1"}}, {"at": {"S": ""}}])
async def test_what_the_next_write_replaces_anyway_does_not_keep_it_from_that(
    store: DynamoDBAdapter, faulty_client: FaultyClient, dynamodb_table: str, wrong: dict[str, Any]
) -> None:
    await ask(store)
    item = await item_of(faulty_client, dynamodb_table)
    item["data"]["M"] |= wrong
    await faulty_client.client.put_item(TableName=dynamodb_table, Item=item)
    with pytest.raises(CorruptRecordError, match="RATE#limit"):
        await store.read_rate("limit")
    for _ in range(2):
        with contextlib.suppress(CorruptRecordError):
            await ask(store)
    assert await store.read_rate("limit") is not None


async def test_nothing_is_written_by_a_clock_that_was_not_compared(
    faulty_client: FaultyClient, dynamodb_table: str
) -> None:
    wrong = DynamoDBAdapter(faulty_client, dynamodb_table, clock=WrongClock(3_600))
    assert (await ask(wrong)).granted
    assert (await ask(wrong)).granted
    assert faulty_client.operations == ["get_item", "update_item", "update_item"]
    assert abs(await tat_of(wrong) / 1e6 - time.time()) < 60


@pytest.mark.engine
@pytest.mark.slow_elsewhere
async def test_no_process_has_less_than_half_of_its_share_whatever_its_clock_shows(
    atomic_dynamodb: Engine, dynamodb_table: str
) -> None:
    limit = RateLimit("shared", rate=100, burst=10)
    errors = [-1.5, -0.5, 0.5, 1.5]
    counts, seconds = dict.fromkeys(errors, 0), 4.0

    async def process(error: float) -> None:
        async with (
            open_client(endpoint_url=atomic_dynamodb.endpoint_url) as client,
            scope(
                persistence=DynamoDBAdapter(client, dynamodb_table, clock=WrongClock(error)),
                on_exit="cancel",
            ),
        ):
            with anyio.move_on_after(seconds):
                while True:
                    async with limit.acquire(wait=30):
                        counts[error] += 1

    async with anyio.create_task_group() as group:
        for error in errors:
            group.start_soon(process, error)
    even = sum(counts.values()) / len(errors)
    assert even > 0
    assert min(counts.values()) > even / 2, counts
