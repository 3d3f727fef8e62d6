"""Many cached values in a table: what it costs, and what happens to requests cut short or lost."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope.exceptions import RecordTooLargeError, StoreTimeoutError, ThrottledError
from gogoscope.persistence import KEYS_PER_PAGE
from gogoscope.testing.conformance import ManualClock
from gogoscope_dynamodb import DynamoDBAdapter, requests
from gogoscope_dynamodb.client import DynamoDBClient
from tests.support.dynamodb_faults import (
    Fault,
    FaultyClient,
    Perform,
    answer,
    fine,
    lose_request,
    lose_response,
    refuse,
)
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(faulty_client: FaultyClient, dynamodb_table: str) -> DynamoDBAdapter:
    return DynamoDBAdapter(faulty_client, dynamodb_table, request_timeout=5, consistent_reads=True)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_DELAY", 0.001)


class InFlight:
    """Counts how many requests are in flight at once, and holds them until there are enough."""

    def __init__(self, enough: int = 1) -> None:
        self.now = 0
        self.most = 0
        self._enough = enough
        self._reached = anyio.Event()

    async def __call__(self, perform: Perform) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.most >= self._enough:
            self._reached.set()
        try:
            with anyio.fail_after(10):
                await self._reached.wait()
            return await perform()
        finally:
            self.now -= 1


async def test_many_cost_a_request_for_100_reads_or_one_write(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    values = {f"k{number}": number for number in range(230)}
    await store.set_many(values)
    assert faulty_client.operations == ["put_item"] * 230
    faulty_client.calls.clear()
    assert await store.get_many(values) == values
    assert faulty_client.operations == ["batch_get_item"] * 3
    faulty_client.calls.clear()
    await store.delete_many(values)
    assert faulty_client.operations == ["update_item"] * 230
    faulty_client.calls.clear()
    await store.set_many({})
    await store.delete_many([])
    assert await store.get_many([]) == {}
    assert faulty_client.calls == []


async def test_each_new_method_of_one_key_is_one_request(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.set("k", 1, 60, if_absent=True)
    await store.touch("k", 90)
    await store.touch("k")
    await store.get_entry("k")
    assert faulty_client.operations == ["put_item", "update_item", "update_item", "get_item"]


async def test_the_latest_entry_is_read_consistently(
    faulty_client: FaultyClient, dynamodb_table: str
) -> None:
    store = DynamoDBAdapter(faulty_client, dynamodb_table)
    await store.get_entry("k")
    await store.get_entry("k", latest=True)
    await store.get_many(["k"])
    sent = [parameters for _, parameters in faulty_client.calls]
    assert [part["ConsistentRead"] for part in sent[:2]] == [False, True]
    assert sent[2]["RequestItems"][dynamodb_table]["ConsistentRead"] is False


async def test_clearing_1000_items_costs_what_it_must_with_8_requests_in_flight(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.set_many({f"item:{number:04}": "x" * 1000 for number in range(1_000)})
    faulty_client.calls.clear()
    in_flight = InFlight()
    faulty_client.constant_faults["update_item"] = in_flight
    await store.clear()
    pages = faulty_client.operations.count("scan")
    assert faulty_client.operations.count("update_item") == 1_000
    assert len(faulty_client.operations) == 1_000 + pages
    assert in_flight.most >= 8
    assert await store.keys() == []


async def test_reading_and_writing_many_goes_side_by_side(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    for operation in ("put_item", "batch_get_item"):
        faulty_client.constant_faults[operation] = InFlight(enough=8)
    values = {f"k{number}": number for number in range(1_000)}
    await store.set_many(values)
    assert await store.get_many(values) == values


async def test_unprocessed_keys_are_read_again(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    dynamodb_client: DynamoDBClient,
    quick_retries: None,
) -> None:
    values = {f"k{number}": number for number in range(60)}
    await store.set_many(values)
    name = store._table.name

    async def read_seven(perform: Perform) -> Any:
        wanted = faulty_client.calls[-1][1]["RequestItems"][name]
        first = {name: {**wanted, "Keys": wanted["Keys"][:7]}}
        response = await dynamodb_client.batch_get_item(RequestItems=first)
        rest = wanted["Keys"][7:]
        return {**response, "UnprocessedKeys": {name: {**wanted, "Keys": rest}} if rest else {}}

    faulty_client.constant_faults["batch_get_item"] = read_seven
    faulty_client.calls.clear()
    assert await store.get_many(values) == values
    assert len(faulty_client.calls) == math.ceil(60 / 7)


async def test_a_table_that_processes_nothing_is_given_up_after_bounded_tries(
    store: DynamoDBAdapter, faulty_client: FaultyClient, quick_retries: None
) -> None:
    async def nothing(perform: Perform) -> Any:
        return {"UnprocessedKeys": faulty_client.calls[-1][1]["RequestItems"]}

    faulty_client.constant_faults["batch_get_item"] = nothing
    with pytest.raises(ThrottledError, match="refuses to read 2 items"):
        await store.get_many(["a", "b"])
    assert len(faulty_client.calls) == requests.MOST_TRIES


async def test_a_failure_of_one_write_is_raised_by_itself_and_ends_the_others(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    faulty_client.faults.extend([fine, refuse("ValidationException", "no")])
    with pytest.raises(Exception, match="no") as raised:
        await store.set_many({f"k{number}": 1 for number in range(100)})
    assert not isinstance(raised.value, ExceptionGroup)


async def test_one_value_too_large_sends_none_of_the_batch(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    with pytest.raises(RecordTooLargeError, match="'big'"):
        await store.set_many({"small": 1, "big": "x" * 410_000})
    assert faulty_client.calls == []


@pytest.mark.parametrize("fault", [lose_response, lose_request])
async def test_set_if_absent_recognises_its_own_write_after_a_lost_answer(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, faulty_client: FaultyClient, fault: Fault
) -> None:
    faulty_client.faults.append(fault)
    assert await store.set("k", "mine", 60, if_absent=True) is True
    assert faulty_client.operations == ["put_item", "put_item"]
    assert await store.get("k") == "mine"
    faulty_client.faults.append(fault)
    assert await store.set("k", "other", 60, if_absent=True) is False
    assert await store.get("k") == "mine"


async def test_set_if_absent_without_an_answer_says_that_it_may_be_done(
    store: DynamoDBAdapter, faulty_client: FaultyClient, quick_retries: None
) -> None:
    async def lose_every_answer(perform: Perform) -> Any:
        with contextlib.suppress(Exception):
            await perform()
        raise ConnectionResetError("the answer was lost")

    faulty_client.constant_faults["put_item"] = lose_every_answer
    with pytest.raises(StoreTimeoutError):
        await store.set("k", "mine", if_absent=True)


async def test_touching_twice_after_a_lost_response_is_fine(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.set("k", 1, 60)
    for ttl in (120, None):
        faulty_client.faults.append(lose_response)
        assert await store.touch("k", ttl) is True
    assert await store.get("k") == 1


async def test_touching_moves_the_expiry_and_the_purge_time(
    atomic_dynamodb: Engine, faulty_client: FaultyClient, dynamodb_table: str
) -> None:
    store = DynamoDBAdapter(faulty_client, dynamodb_table, clock=ManualClock(1_800_000_000.0))
    await store.set("k", 1, 60)
    await store.touch("k", 90.5)
    item = await store._table.read(store._key("CACHE#", "k"), consistent=True)
    assert item is not None
    assert item["expiresAt"] == {"N": "1800000091"}
    assert item["data"]["M"]["until"] == {"N": "1800000090500"}
    await store.touch("k")
    item = await store._table.read(store._key("CACHE#", "k"), consistent=True)
    assert item is not None
    assert "expiresAt" not in item
    assert "until" not in item["data"]["M"]


async def test_iterating_reads_page_by_page_and_no_further_than_it_goes(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.set_many({f"item:{number:04}": "x" * 1000 for number in range(3_000)})
    faulty_client.calls.clear()
    async for _ in store.iterate_keys():
        break
    assert faulty_client.operations == ["scan"]
    listed = [key async for key in store.iterate_keys("item:*")]
    assert len(listed) == len(set(listed)) == 3_000
    assert len(faulty_client.operations) > 3


async def test_a_cancelled_batch_leaves_no_request_behind(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    in_flight = InFlight()
    faulty_client.constant_faults["put_item"] = in_flight
    with anyio.CancelScope() as cancelled:
        async with anyio.create_task_group() as group:
            group.start_soon(store.set_many, {f"k{number}": 1 for number in range(1_000)})
            while not in_flight.now:
                await anyio.sleep(0)
            cancelled.cancel()
    assert in_flight.now == 0
    await store.clear()
    assert await store.keys() == []


async def test_an_answer_without_what_was_asked_for_is_no_value(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    faulty_client.faults.append(answer({"Responses": {}, "UnprocessedKeys": {}}))
    assert await store.get_many(["k"]) == {}


@pytest.mark.parametrize("operation", ["set_many", "get_many", "delete_many"])
async def test_very_many_keys_leave_the_event_loop_its_time_before_the_first_request(
    operation: str,
) -> None:
    client = FaultyClient()
    store = DynamoDBAdapter(client, "table")
    keys = [f"k{n}" for n in range(5 * KEYS_PER_PAGE)]
    turns = 0

    async def stop(perform: Perform) -> Any:
        limit.cancel()
        await anyio.sleep_forever()

    async def count() -> None:
        nonlocal turns
        while not client.calls:
            await anyio.lowlevel.checkpoint()
            turns += 1

    client.faults.append(stop)
    given: Any = dict.fromkeys(keys, 1) if operation == "set_many" else keys
    with anyio.CancelScope() as limit:
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            await getattr(store, operation)(given)
    assert turns >= 4
