"""What DynamoDB is found to tell of a table, and of the clock."""

from __future__ import annotations

from typing import Any

import pytest

from gogoscope import open_persistence
from gogoscope_dynamodb import DynamoDBAdapter, examination
from gogoscope_dynamodb.client import DynamoDBClient
from gogoscope_dynamodb.schema import KEYS
from tests.support.clocks import WrongClock
from tests.support.dynamodb_faults import FaultyClient, answer, refuse
from tests.support.engines import new_table_name

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Examine on asyncio alone: the client runs on nothing else."""
    return request.param


async def examined(store: DynamoDBAdapter) -> dict[str, Any]:
    return {one.check: one for one in await store.examine()}


async def test_a_table_as_it_is_made_is_fine(dynamodb_url: str) -> None:
    for url in (dynamodb_url, f"{dynamodb_url}&fast=true"):
        async with open_persistence(url) as opened:
            store: Any = opened
            found = await examined(store)
            assert {one.state for one in found.values()} == {"fine"}
            assert found["keys"].found == "pk and sk"
            assert found["time to live"].found == "on expiresAt"
            assert "each of which is charged" in await store.describe_scan()


@pytest.mark.parametrize("ahead", [-5.0, 5.0])
async def test_a_clock_that_is_wrong_is_found(
    dynamodb_client: DynamoDBClient, dynamodb_table: str, ahead: float
) -> None:
    store = DynamoDBAdapter(dynamodb_client, dynamodb_table, clock=WrongClock(ahead))
    clock = (await examined(store))["clock"]
    assert clock.state == "wrong"
    assert "NTP" in clock.advice
    assert ("ahead of" if ahead > 0 else "behind") in clock.found
    patient = DynamoDBAdapter(
        dynamodb_client, dynamodb_table, clock=WrongClock(ahead), max_clock_skew=60
    )
    assert (await examined(patient))["clock"].state == "fine"


async def test_a_table_without_time_to_live_is_wrong(dynamodb_client: Any) -> None:
    name = new_table_name()
    await dynamodb_client.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", **KEYS)
    found = await examined(DynamoDBAdapter(dynamodb_client, name))
    assert found["time to live"].state == "wrong"
    assert "expiresAt" in found["time to live"].advice


async def test_keys_of_every_prefix_are_sampled(
    dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> None:
    one = DynamoDBAdapter(dynamodb_client, dynamodb_table, key_prefix="a:")
    other = DynamoDBAdapter(dynamodb_client, dynamodb_table, key_prefix="b:")
    await one.set("k", 1)
    await other.acquire("k", 60)
    await one.record_failure("c", 5)
    assert await other.sample_keys(10) == {"cache": ["a:k"], "lock": ["b:k"], "circuit": ["a:c"]}


TTL = {"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "expiresAt"}}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> FaultyClient:
    """A client that is answered as the test says."""
    monkeypatch.setattr(examination, "SECONDS_BETWEEN_LOOKS", 0.0)
    client = FaultyClient()
    client.constant_faults = {
        "describe_table": answer({"Table": {**KEYS, "TableStatus": "ACTIVE"}}),
        "describe_time_to_live": answer(TTL),
        "get_item": answer({}),
    }
    return client


async def test_what_may_not_be_described_is_doubtful(scripted: FaultyClient) -> None:
    for operation in ("describe_table", "describe_time_to_live"):
        scripted.constant_faults[operation] = refuse("AccessDeniedException")
    store = DynamoDBAdapter(scripted, "table")
    found = await examined(store)
    for check, permission in (("keys", "DescribeTable"), ("time to live", "DescribeTimeToLive")):
        assert found[check].state == "doubtful"
        assert permission in found[check].advice
    assert await store.describe_scan() == "every item of table 'table', each of which is charged"


async def test_keys_and_time_to_live_of_another_program_are_wrong(scripted: FaultyClient) -> None:
    other = {"KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}]}
    attributes = {"AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}]}
    scripted.constant_faults["describe_table"] = answer({"Table": {**other, **attributes}})
    ttl = {"TimeToLiveStatus": "ENABLED", "AttributeName": "gone_at"}
    scripted.constant_faults["describe_time_to_live"] = answer({"TimeToLiveDescription": ttl})
    found = await examined(DynamoDBAdapter(scripted, "table"))
    assert found["keys"].state == found["time to live"].state == "wrong"
    assert "gone_at" in found["time to live"].found


async def test_answers_that_do_not_tell_the_time_leave_the_clock_doubtful(
    scripted: FaultyClient,
) -> None:
    assert (await examined(DynamoDBAdapter(scripted, "table")))["clock"].state == "doubtful"
