"""A cache in a table: what is stored, what it costs, and what clearing and listing leave alone."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from gogoscope.exceptions import (
    ConfigurationError,
    CorruptRecordError,
    RecordTooLargeError,
)
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.cache import ITEM_OVERHEAD
from gogoscope_dynamodb.schema import LARGEST_ITEM
from tests.support.clocks import START_MS, MillisecondClock
from tests.support.dynamodb_faults import FaultyClient, refuse
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio

START = 1_800_000_000.0

VALUES = [
    None,
    True,
    0,
    -(2**70),
    1.5,
    1e300,
    "",
    "é\x00\u2028😀",
    [],
    {},
    [1, [2.5, {"": None}]],
    {"a": {"b": ["c"]}},
]


async def test_each_method_is_one_request(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.set("k", [1], 5)
    await store.get("k")
    await store.has("k")
    await store.delete("k")
    assert faulty_client.operations == ["put_item", "get_item", "get_item", "update_item"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_a_value_comes_back_as_it_was(store: DynamoDBAdapter, value: Any) -> None:
    await store.set("k", value)
    found = await store.get("k", "nothing")
    assert (found, type(found)) == (value, type(value))
    assert await store.has("k")


async def test_the_item_is_as_the_schema_says(store: DynamoDBAdapter) -> None:
    await store.set("k", {"a": 1.5}, 1.2345)
    item = await store._table.read(store._key("CACHE#", "k"), consistent=True)
    assert item is not None
    assert len(item["data"]["M"].pop("by")["S"]) == 16
    assert item == {
        "pk": {"S": "CACHE#k"},
        "sk": {"S": "METADATA"},
        "version": {"N": str(START_MS * 1000)},
        "expiresAt": {"N": "1800000002"},
        "data": {"M": {"json": {"S": '{"a":1.5}'}, "until": {"N": str(START_MS + 1235)}}},
    }
    await store.set("k", 1)
    item = await store._table.read(store._key("CACHE#", "k"), consistent=True)
    assert item is not None
    assert "expiresAt" not in item
    assert "until" not in item["data"]["M"]


async def test_a_value_ends_at_its_millisecond_for_every_method(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await store.set("k", None, 0.5)
    clock.advance(499)
    assert await store.get("k", "gone") is None
    assert await store.has("k")
    assert await store.keys() == ["k"]
    clock.advance(1)
    assert await store.get("k", "gone") == "gone"
    assert not await store.has("k")
    assert await store.keys() == []
    assert await store.delete("k") is False


async def test_deleting_tells_whether_there_was_a_value(store: DynamoDBAdapter) -> None:
    assert await store.delete("k") is False
    await store.set("k", None)
    assert await store.delete("k") is True
    assert await store.delete("k") is False
    assert await store.get("k", "gone") == "gone"


async def test_reads_are_consistent_when_asked_for(
    faulty_client: FaultyClient, dynamodb_table: str
) -> None:
    for consistent in (False, True):
        store = DynamoDBAdapter(faulty_client, dynamodb_table, consistent_reads=consistent)
        await store.set("k", 1)
        faulty_client.calls.clear()
        await store.get("k")
        await store.has("k")
        await store.keys()
        assert {call["ConsistentRead"] for _, call in faulty_client.calls} == {consistent}


async def test_the_largest_value_fits_and_one_byte_more_is_refused_unsent(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    room = LARGEST_ITEM - ITEM_OVERHEAD - len("CACHE#k") - len('""')
    await store.set("k", "x" * room, 5)
    assert await store.get("k") == "x" * room
    faulty_client.calls.clear()
    with pytest.raises(RecordTooLargeError, match="409,601 bytes; DynamoDB holds at most 409,600"):
        await store.set("k", "x" * (room + 1), 5)
    assert faulty_client.calls == []


@pytest.mark.parametrize("stale", [0, 100 * 365 * 86_400])
async def test_the_largest_value_can_be_touched(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, stale: int
) -> None:
    room = LARGEST_ITEM - ITEM_OVERHEAD - len("CACHE#k") - len('""')
    await store.set("k", "x" * room, 5, stale=stale)
    for ttl in (50, None, 60):
        assert await store.touch("k", ttl)
    assert await store.get("k") == "x" * room


async def test_the_size_is_counted_in_bytes(
    atomic_dynamodb: Engine, store: DynamoDBAdapter
) -> None:
    class Plain:
        def dumps(self, value: Any) -> str:
            return json.dumps(value, ensure_ascii=False)

        def loads(self, text: str) -> Any:
            return json.loads(text)

    plain = DynamoDBAdapter(store._table.client, store._table.name, codec=Plain())
    accents = "é" * 80_000
    await plain.set("k", accents + "x" * 249_000)
    assert await plain.get("k") == accents + "x" * 249_000
    with pytest.raises(RecordTooLargeError, match="410,"):
        await plain.set("k", accents + "x" * 250_000)


async def test_an_item_that_the_server_finds_too_large_is_the_same_error(
    store: DynamoDBAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gogoscope_dynamodb.schema.LARGEST_ITEM", 10**9)
    with pytest.raises(RecordTooLargeError):
        await store.set("k", "x" * 500_000)


@pytest.mark.parametrize(
    "attributes",
    [
        {"version": {"N": "1800000000000000"}, "data": {"S": "text"}},
        {"version": {"N": "1800000000000000"}, "data": {"M": {}}},
        {"version": {"N": "1800000000000000"}, "data": {"M": {"json": {"S": "{"}}}},
        {"version": {"N": "1.5"}, "data": {"S": "text"}},
        {"version": {"N": "1"}, "data": {"B": b"bytes"}},
        {"version": {"N": "1"}, "data": {"S": "of another program"}},
    ],
    ids=repr,
)
async def test_an_unreadable_item_is_an_error_that_names_it(
    store: DynamoDBAdapter, attributes: Any
) -> None:
    await store._table.put(store._key("CACHE#", "k") | attributes)
    with pytest.raises(CorruptRecordError):
        await store.get("k")


async def test_a_pattern_is_a_glob_over_whole_keys(store: DynamoDBAdapter) -> None:
    for key in ("user:1", "user:22", "superuser:9", "USER:1", "user.1", "user:", "a+b[c]"):
        await store.set(key, 1)
    assert sorted(await store.keys("user:*")) == ["user:", "user:1", "user:22"]
    assert await store.keys("user:?") == ["user:1"]
    assert await store.keys("user.1") == ["user.1"]
    assert await store.keys("a+b[c]") == ["a+b[c]"]
    assert await store.keys("*.*") == ["user.1"]
    assert await store.keys("nothing*") == []
    assert len(await store.keys("*")) == 7
    with pytest.raises(TypeError, match="pattern"):
        await store.keys(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["app:", "a.b(c)*[d]+?|", "ü/#"])
async def test_clearing_and_listing_keep_to_the_prefix(
    faulty_client: FaultyClient, dynamodb_table: str, prefix: str
) -> None:
    def below(key_prefix: str) -> DynamoDBAdapter:
        return DynamoDBAdapter(faulty_client, dynamodb_table, key_prefix=key_prefix)

    ours, nested, longer, all_keys = below(prefix), below(f"{prefix}x:"), below("app2:"), below("")
    await ours.set("k.1", 1)
    await nested.set("k2", 2)
    await longer.set("k3", 3)
    await all_keys.set("k4", 4)
    assert sorted(await ours.keys()) == ["k.1", "x:k2"]
    assert await ours.keys("k.*") == ["k.1"]
    await ours.clear()
    assert await ours.keys() == []
    assert sorted(await all_keys.keys()) == ["app2:k3", "k4"]


async def test_clearing_thousands_of_keys_leaves_none_and_touches_no_lock_and_no_circuit(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    handle = await store.acquire("held", 60)
    assert handle is not None
    await store.record_failure("circuit", 5)
    await fill(store, 2000, "x" * 1000)
    listed = await store.keys()
    assert len(listed) == len(set(listed)) == 2000
    assert len(await store.keys("item:00*")) == 100
    faulty_client.calls.clear()
    await store.clear()
    assert await store.keys() == []
    assert set(faulty_client.operations) == {"scan", "update_item"}
    faulty_client.calls.clear()
    await store.clear()
    assert set(faulty_client.operations) == {"scan"}  # What is left of a value is left alone.
    assert await handle.is_valid()
    state = await store.get_state("circuit")
    assert state is not None
    assert state.failure_count == 1


async def fill(store: DynamoDBAdapter, count: int, content: str) -> None:
    """Write items as ``set`` does, 25 at a time."""
    table = store._table.name
    items = [
        {
            **store._key("CACHE#", f"item:{number:04}"),
            "version": {"N": "1800000000000000"},
            "data": {"M": {"json": {"S": json.dumps(content)}, "by": {"S": "test"}}},
        }
        for number in range(count)
    ]

    async def write(batch: list[Any]) -> None:
        puts = [{"PutRequest": {"Item": item}} for item in batch]
        client: Any = store._table.client
        await client.client.batch_write_item(RequestItems={table: puts})

    for start in range(0, count, 250):
        async with anyio.create_task_group() as tasks:
            for first in range(start, min(start + 250, count), 25):
                tasks.start_soon(write, items[first : first + 25])


async def test_a_failure_in_one_segment_is_raised_as_it_is_and_ends_the_others(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    faulty_client.faults.append(refuse("AccessDeniedException", "no scan for you"))
    with pytest.raises(ConfigurationError, match="no scan for you"):
        await store.keys()


async def test_two_concurrent_clears_do_not_disturb_each_other(
    atomic_dynamodb: Engine, store: DynamoDBAdapter
) -> None:
    await fill(store, 200, "x")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.clear)
        tasks.start_soon(store.clear)
    assert await store.keys() == []


async def test_touch_keeps_a_value_for_its_stale_time_too(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    for ttl in (60, None):
        await store.set("k", 1, ttl, stale=86_400)
        assert await store.touch("k", 30)
        item = await store._table.read(store._key("CACHE#", "k"), consistent=True)
        assert item is not None
        assert int(item["expiresAt"]["N"]) >= int(clock.wall()) + 30 + 86_400


async def test_a_value_that_is_corrupt_makes_no_list_fail_and_can_be_removed(
    store: DynamoDBAdapter, faulty_client: FaultyClient, caplog: pytest.LogCaptureFixture
) -> None:
    await store.set("good", 1)
    malformed: list[dict[str, Any]] = [
        {"M": {"until": {"S": "x"}}},
        {"M": {"until": {"N": "1.5"}}},
    ]
    for wrong in malformed:
        item = {**store._key("CACHE#", "bad"), "version": {"N": "1"}, "data": wrong}
        await faulty_client.put_item(TableName=store._table.name, Item=item)
        with pytest.raises(CorruptRecordError, match="CACHE#bad"):
            await store.get("bad")
        assert await store.keys() == ["good"]
        assert [key async for key in store.iterate_keys()] == ["good"]
        assert "CACHE#bad" in caplog.text
        assert await store.delete("bad")
        assert not await store.has("bad")
