"""Writes of values whose answer is lost or that land late undo nothing that others wrote since."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gogoscope.exceptions import CorruptRecordError, StoreTimeoutError
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.clocks import MillisecondClock
from tests.support.dynamodb_faults import FaultyClient, lose_request

pytestmark = pytest.mark.anyio

Step = Callable[[], Awaitable[Any]]


@pytest.fixture
def other(
    faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock
) -> DynamoDBAdapter:
    """A store of another process."""
    return DynamoDBAdapter(faulty_client.client, dynamodb_table, clock=clock)


def lose_response_after(step: Step, *, land: bool = True) -> Any:
    """Lose the answer to a request, after others have done something in the meantime."""

    async def fault(perform: Any) -> Any:
        if land:
            await perform()
        await step()
        raise ConnectionResetError("the answer was lost")

    return fault


@pytest.mark.parametrize("write", ["set", "set_many"])
async def test_a_set_in_doubt_leaves_what_was_set_since(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, write: str
) -> None:
    faulty_client.faults.append(lose_response_after(lambda: other.set("k", "theirs")))
    await (store.set("k", "mine") if write == "set" else store.set_many({"k": "mine"}))
    assert await other.get("k") == "theirs"


@pytest.mark.parametrize("write", ["set", "set_many", "if_absent"])
async def test_a_set_in_doubt_leaves_deleted_what_was_deleted_since(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, write: str
) -> None:
    faulty_client.faults.append(lose_response_after(lambda: other.delete("k")))
    if write == "if_absent":
        with pytest.raises(StoreTimeoutError):
            await store.set("k", "mine", if_absent=True)
    else:
        await (store.set("k", "mine") if write == "set" else store.set_many({"k": "mine"}))
    assert not await other.has("k")


async def test_an_if_absent_in_doubt_is_not_told_as_refused_when_it_was_replaced_since(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    faulty_client.faults.append(lose_response_after(lambda: other.set("k", "theirs")))
    with pytest.raises(StoreTimeoutError):
        await store.set("k", "mine", if_absent=True)
    assert await other.get("k") == "theirs"


async def test_an_if_absent_in_doubt_is_refused_when_the_value_is_older(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    await other.set("k", "theirs")
    faulty_client.faults.append(lose_request)
    assert await store.set("k", "mine", if_absent=True) is False


@pytest.mark.parametrize("if_absent", [True, False])
async def test_a_set_that_was_lost_on_its_way_is_sent_again(
    store: DynamoDBAdapter, faulty_client: FaultyClient, if_absent: bool
) -> None:
    faulty_client.faults.append(lose_request)
    assert await store.set("k", "mine", if_absent=if_absent)
    assert await store.get("k") == "mine"


async def test_a_delete_in_doubt_leaves_what_was_set_since_and_cannot_tell_what_was_there(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    await store.set("k", "old")
    faulty_client.faults.append(lose_response_after(lambda: other.set("k", "new")))
    with pytest.raises(StoreTimeoutError):
        await store.delete("k")
    assert await other.get("k") == "new"


async def test_a_set_in_doubt_does_not_take_a_touch_for_a_newer_value(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    other: DynamoDBAdapter,
    clock: MillisecondClock,
) -> None:
    async def lose_request_and_touch(perform: Any) -> Any:
        clock.advance(1000)
        assert await other.touch("k", 60)
        raise ConnectionResetError

    await other.set("k", "old")
    clock.advance(1)
    faulty_client.faults.append(lose_request_and_touch)
    assert await store.set("k", "mine")
    assert await other.get("k") == "mine"


async def test_a_delete_in_doubt_does_not_take_a_touch_for_a_newer_value(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    other: DynamoDBAdapter,
    clock: MillisecondClock,
) -> None:
    async def lose_request_and_touch(perform: Any) -> Any:
        clock.advance(1000)
        assert await other.touch("k", 60)
        raise ConnectionResetError

    await other.set("k", "old")
    clock.advance(1)
    faulty_client.faults.append(lose_request_and_touch)
    assert await store.delete("k") is True
    assert not await other.has("k")


async def test_a_touch_in_doubt_is_done_once(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    other: DynamoDBAdapter,
    clock: MillisecondClock,
) -> None:
    async def set_later() -> None:
        clock.advance(1000)
        await other.touch("k", 60)

    await store.set("k", "old")
    faulty_client.faults.append(lose_response_after(set_later))
    with pytest.raises(StoreTimeoutError):
        await store.touch("k", 6000)
    entry = await other.get_entry("k")
    assert entry is not None
    assert entry.left <= 60


@pytest.mark.parametrize("existed", [True, False])
async def test_a_delete_in_doubt_tells_whether_there_was_a_value(
    store: DynamoDBAdapter, faulty_client: FaultyClient, existed: bool
) -> None:
    if existed:
        await store.set("k", "old")

    async def lose_response(perform: Any) -> Any:
        try:
            await perform()
        finally:
            raise ConnectionResetError

    faulty_client.faults.append(lose_response)
    assert await store.delete("k") is existed


async def test_a_delete_many_in_doubt_leaves_what_was_set_since(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    other: DynamoDBAdapter,
    clock: MillisecondClock,
) -> None:
    async def set_later() -> None:
        clock.advance(1)
        await other.set("k", "new")

    await store.set("k", "old")
    faulty_client.faults.append(lose_response_after(set_later))
    await store.delete_many(["k"])
    assert await other.get("k") == "new"


@pytest.mark.parametrize("after", ["set", "delete"])
async def test_a_write_that_lands_late_is_refused(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, after: str
) -> None:
    await store.set("k", "mine")
    _, late_set = faulty_client.calls[-1]
    await store.delete("k")
    _, late_delete = faulty_client.calls[-1]
    await other.set("k", "theirs")
    if after == "delete":
        await other.delete("k")
    with pytest.raises(Exception, match="conditional"):
        await faulty_client.put_item(**late_set)
    with pytest.raises(Exception, match="conditional"):
        await faulty_client.update_item(**late_delete)
    assert await other.get("k") == ("theirs" if after == "set" else None)


async def test_a_clock_that_is_behind_writes_all_the_same(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await store.set("k", 1)
    clock.advance(-60_000)
    await store.set("k", 2)
    assert await store.get("k") == 2
    assert await store.delete("k") is True
    assert await store.set("k", 3, if_absent=True)
    assert await store.get("k") == 3


@pytest.mark.parametrize("version", [{"S": "one"}, {"N": "1.5"}, None], ids=repr)
async def test_a_malformed_value_can_be_set_and_deleted(
    store: DynamoDBAdapter, version: Any
) -> None:
    item = store._key("CACHE#", "k") | {"data": {"S": "text"}}
    if version is not None:
        item["version"] = version
    await store._table.put(item)
    with pytest.raises(CorruptRecordError, match="CACHE#k"):
        await store.get("k")
    await store.set("k", 1)
    assert await store.get("k") == 1
    await store._table.put(item)
    assert await store.delete("k") is True
    assert not await store.has("k")
