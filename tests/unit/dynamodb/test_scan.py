"""A scan reads every page of every segment, and returns the items that match with their keys."""

from __future__ import annotations

from typing import Any

import pytest

from gogoscope.persistence import Pages
from gogoscope_dynamodb.requests import NO_ITEM, Table
from gogoscope_dynamodb.scan import Found, Scan
from tests.support.dynamodb_faults import FaultyClient, Perform, answer

pytestmark = pytest.mark.anyio


@pytest.fixture
def client() -> FaultyClient:
    return FaultyClient()


@pytest.fixture
def table(client: FaultyClient) -> Table:
    return Table("t", client, 5)


def item(key: str) -> dict[str, Any]:
    return {"pk": {"S": f"CACHE#app:{key}"}}


def page(*keys: str, following: str | None = None) -> Any:
    last = {} if following is None else {"LastEvaluatedKey": item(following)}
    return answer({"Items": [item(key) for key in keys], **last})


async def test_pages_follow_one_another_and_keys_lose_kind_and_prefix(
    client: FaultyClient, table: Table
) -> None:
    client.faults += [page("a", following="a"), page(following="b"), page("c")]
    scan = Scan(table, "CACHE#", "app:", consistent=True)
    assert [found async for found in Pages(scan.page)] == [("a", item("a")), ("c", item("c"))]
    begins = [parameters.get("ExclusiveStartKey") for _, parameters in client.calls]
    assert begins == [None, item("a"), item("b")]


async def test_the_server_filters_by_what_the_pattern_begins_with_and_the_scan_by_all_of_it(
    client: FaultyClient, table: Table
) -> None:
    client.faults.append(page("user:1", "user:1:name"))
    found, _ = await Scan(table, "CACHE#", "app:", "user:?", consistent=False).page(None)
    assert [key for key, _ in found] == ["user:1"]
    sent = client.calls[0][1]
    assert sent["ExpressionAttributeValues"] == {":start": {"S": "CACHE#app:user:"}}
    assert sent["ConsistentRead"] is False


async def test_every_segment_is_read_to_its_end(client: FaultyClient, table: Table) -> None:
    async def two_pages(perform: Perform) -> Any:
        sent = client.calls[-1][1]
        key = f"{sent['Segment']}, page {2 if 'ExclusiveStartKey' in sent else 1}"
        last = {"LastEvaluatedKey": item(key)} if key.endswith("1") else {}
        return {"Items": [item(key)], **last}

    client.constant_faults["scan"] = two_pages
    keys: list[str] = []

    async def collect(found: Found) -> None:
        keys.extend(key for key, _ in found)

    scan = Scan(table, "CACHE#", "app:", consistent=True, segments=2)
    await scan.for_each_page(collect)
    assert sorted(keys) == ["0, page 1", "0, page 2", "1, page 1", "1, page 2"]
    assert {parameters["TotalSegments"] for _, parameters in client.calls} == {2}


@pytest.mark.parametrize("found_in", ["no segment", "one segment", "one segment, not matching"])
async def test_only_a_scan_that_found_nothing_at_all_asks_whether_the_table_is_the_right_one(
    client: FaultyClient, table: Table, found_in: str
) -> None:
    client.faults += [page(), page() if found_in == "no segment" else page("a"), answer({})]

    async def ignore(found: Found) -> None:
        pass

    pattern = "b" if found_in.endswith("not matching") else None
    scan = Scan(table, "CACHE#", "app:", pattern, consistent=True, segments=2)
    await scan.for_each_page(ignore)
    asked = [parameters["Key"] for operation, parameters in client.calls if operation == "get_item"]
    assert asked == ([NO_ITEM] if found_in == "no segment" else [])
