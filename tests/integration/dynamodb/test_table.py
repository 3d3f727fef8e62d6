"""Making a table, opening a store on it by a URL, and what is said when the table is not right."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import anyio
import pytest

from gogoscope.exceptions import ConfigurationError, PersistenceError
from gogoscope.persistence import CircuitBreakerState, open_persistence
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import DynamoDBClient, open_client
from gogoscope_dynamodb.schema import KEYS
from tests.support.dynamodb_faults import FaultyClient, answer, refuse
from tests.support.engines import Engine, new_table_name

pytestmark = pytest.mark.anyio


async def other_table(client: Any, **keys: str) -> str:
    name = new_table_name()
    await client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[
            {"AttributeName": key, "KeyType": kind}
            for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
        ],
        AttributeDefinitions=[
            {"AttributeName": key, "AttributeType": kind} for key, kind in keys.items()
        ],
    )
    return name


async def test_a_table_is_made_as_documented_and_may_be_made_again(
    dynamodb_client: DynamoDBClient,
) -> None:
    name = new_table_name()
    for _ in range(2):
        await create_table(dynamodb_client, name)
        table = (await dynamodb_client.describe_table(TableName=name))["Table"]
        ttl = (await dynamodb_client.describe_time_to_live(TableName=name))["TimeToLiveDescription"]
        assert table["TableStatus"] == "ACTIVE"
        assert table["KeySchema"] == [
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ]
        assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        assert (ttl["AttributeName"], ttl["TimeToLiveStatus"]) == ("expiresAt", "ENABLED")


async def test_a_table_may_be_made_by_many_at_once(
    atomic_dynamodb: Engine, dynamodb_client: DynamoDBClient
) -> None:
    name = new_table_name()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(create_table, dynamodb_client, name)


async def test_making_a_table_waits_until_it_is_active() -> None:
    keys = KEYS
    disabled = {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}}
    enabling = {
        "TimeToLiveDescription": {
            "TimeToLiveStatus": "ENABLING",
            "AttributeName": "expiresAt",
        }
    }
    client = FaultyClient()
    client.faults += [
        refuse("ResourceNotFoundException"),
        refuse("ResourceInUseException"),
        answer({"Table": {"TableStatus": "CREATING", **keys}}),
        answer({"Table": {"TableStatus": "ACTIVE", **keys}}),
        answer(disabled),
        refuse("ValidationException", "TimeToLive is already enabled"),
        answer(enabling),
    ]
    with anyio.fail_after(10):
        await create_table(client, "t")
    assert not client.faults


async def test_a_table_that_is_being_updated_is_used() -> None:
    client = FaultyClient()
    client.faults += [
        answer({"Table": {"TableStatus": "UPDATING", **KEYS}}),
        answer(
            {
                "TimeToLiveDescription": {
                    "TimeToLiveStatus": "ENABLED",
                    "AttributeName": "expiresAt",
                }
            }
        ),
    ]
    with anyio.fail_after(0.4):
        await create_table(client, "table")
    assert not client.faults


async def test_a_table_with_other_keys_is_refused_with_both(
    dynamodb_client: DynamoDBClient,
) -> None:
    name = await other_table(dynamodb_client, id="N")
    with pytest.raises(ConfigurationError) as caught:
        await create_table(dynamodb_client, name)
    for words in (name, "id (N, HASH)", "pk (S, HASH), sk (S, RANGE)"):
        assert words in str(caught.value)


async def test_a_table_with_an_impossible_name_is_refused_with_the_reason(
    atomic_dynamodb: Engine,
    dynamodb_client: DynamoDBClient,
) -> None:
    with pytest.raises(PersistenceError, match="ValidationException"):
        await create_table(dynamodb_client, "a b")


async def test_a_table_with_its_time_to_live_elsewhere_is_refused(
    dynamodb_client: DynamoDBClient,
) -> None:
    name = await other_table(dynamodb_client, pk="S", sk="S")
    await dynamodb_client.update_time_to_live(
        TableName=name, TimeToLiveSpecification={"AttributeName": "ttl", "Enabled": True}
    )
    with pytest.raises(ConfigurationError, match="'ttl', but the store needs it on 'expiresAt'"):
        await create_table(dynamodb_client, name)


CALLS: dict[str, Any] = {
    "acquire": lambda store: store.acquire("k", 5),
    "holder": lambda store: store.holder("k"),
    "force_release": lambda store: store.force_release("k"),
    "record_failure": lambda store: store.record_failure("k", 5),
    "get_state": lambda store: store.get_state("k"),
    "get": lambda store: store.get("k"),
    "set": lambda store: store.set("k", 1),
    "delete": lambda store: store.delete("k"),
    "keys": lambda store: store.keys(),
    "clear": lambda store: store.clear(),
    "iterate_keys": lambda store: anext(store.iterate_keys(), None),
    "circuits": lambda store: store.circuits(),
    "get_many": lambda store: store.get_many(["k"]),
    "extend": lambda store: store.extend("k", 5, "owner"),
    "set_state": lambda store: store.set_state("k", CircuitBreakerState(state="open")),
    "record_success": lambda store: store.record_success("k"),
    "has": lambda store: store.has("k"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_missing_table_is_named_with_its_region_and_how_to_make_it(
    dynamodb_client: DynamoDBClient, call: Any
) -> None:
    name = new_table_name()
    with pytest.raises(ConfigurationError) as caught:
        await call(DynamoDBAdapter(dynamodb_client, name))
    message = str(caught.value)
    for words in (repr(name), "region us-east-1", f"create_table(client, {name!r})", "create=true"):
        assert words in message
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("call", "keys"),
    [
        pytest.param(call, keys, id=f"{name}-{keys}")
        for name, call in CALLS.items()
        for keys in ({"id": "S"}, {"pk": "S"}, {"pk": "S", "sk": "N"})
        # An item may well have an sk where none is needed.
        if (name, keys) != ("set", {"pk": "S"})
    ],
)
async def test_a_store_on_a_table_with_other_keys_shows_both(
    atomic_dynamodb: Engine, dynamodb_client: DynamoDBClient, call: Any, keys: dict[str, str]
) -> None:
    name = await other_table(dynamodb_client, **keys)
    store = DynamoDBAdapter(dynamodb_client, name)
    with pytest.raises(ConfigurationError, match=r"needs pk \(S, HASH\), sk \(S, RANGE\)"):
        await call(store)


async def test_a_url_opens_a_store_of_its_own_client_and_closes_it(dynamodb_url: str) -> None:
    async with open_persistence(dynamodb_url + "&key_prefix=app:") as store:
        assert isinstance(store, DynamoDBAdapter)
        await store.set("k", 1)
        assert await store.get("k") == 1
    with pytest.raises(PersistenceError, match="is not open"):
        await store.get("k")


async def test_a_store_may_be_opened_again_after_it_was_closed(dynamodb_url: str) -> None:
    async with open_persistence(dynamodb_url) as store:
        assert isinstance(store, DynamoDBAdapter)
    for _ in range(2):
        assert await store.__aenter__() is store
        assert await store.get("k") is None
        await store.aclose()
        await store.aclose()


async def test_a_store_that_is_open_cannot_be_entered_again(dynamodb_url: str) -> None:
    async with open_persistence(dynamodb_url) as store:
        assert isinstance(store, DynamoDBAdapter)
        with pytest.raises(PersistenceError, match="is open already"):
            await store.__aenter__()
        assert await store.get("k") is None


async def test_a_url_may_ask_for_the_table_to_be_made(
    on_asyncio: None, dynamodb_engine: Engine
) -> None:
    url = f"dynamodb://{new_table_name()}?create=true&endpoint_url={dynamodb_engine.endpoint_url}"
    for _ in range(2):
        async with open_persistence(url) as store:
            await store.set("k", 1)


async def test_the_endpoint_of_the_environment_is_honoured(
    dynamodb_engine: Engine, dynamodb_table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynamodb_engine.endpoint_url)
    async with open_persistence(f"dynamodb://{dynamodb_table}") as store:
        await store.set("k", 1)
        assert await store.get("k") == 1


async def test_its_own_client_never_retries_by_itself_and_has_a_pool_that_is_large_enough(
    on_asyncio: None, dynamodb_engine: Engine
) -> None:
    async with open_client(endpoint_url=dynamodb_engine.endpoint_url) as client:
        config: Any = client.meta.config  # type: ignore[attr-defined]
        assert config.retries["total_max_attempts"] == 1
        assert config.max_pool_connections >= 50


async def test_a_callers_client_is_never_closed(
    dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> None:
    async with DynamoDBAdapter(dynamodb_client, dynamodb_table) as store:
        await store.set("k", 1)
    assert await store.get("k") == 1
    await dynamodb_client.describe_table(TableName=dynamodb_table)


async def test_bad_input_leaves_nothing_in_the_table(
    dynamodb_store: DynamoDBAdapter, dynamodb_client: DynamoDBClient, dynamodb_table: str
) -> None:
    ajar: Any = "ajar"
    bad: list[Any] = [
        lambda: dynamodb_store.acquire("", 5),
        lambda: dynamodb_store.acquire("k", 0),
        lambda: dynamodb_store.acquire("k", 5, owner=""),
        lambda: dynamodb_store.set("k", {1: 2}),
        lambda: dynamodb_store.set("k", float("nan")),
        lambda: dynamodb_store.set("k", 1, -1),
        lambda: dynamodb_store.record_failure("k", 0),
        lambda: dynamodb_store.set_state("k", CircuitBreakerState(state=ajar)),
        lambda: dynamodb_store.set_state("k", {"state": "open"}),  # type: ignore[arg-type]
    ]
    for call in bad:
        with pytest.raises((TypeError, ValueError)):
            await call()
    assert (await dynamodb_client.scan(TableName=dynamodb_table))["Count"] == 0


async def test_every_number_that_is_sent_is_an_integer(
    dynamodb_store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    handle = await dynamodb_store.acquire("k", 5.2345)
    assert handle is not None
    await handle.extend(4.9876)
    await dynamodb_store.extend("k", 6.1111, handle.owner)
    await handle.release()
    await dynamodb_store.record_failure("k", 1)
    await dynamodb_store.set("k", 1.5, 2.3456)
    numbers = re.findall(r"{'N': (.*?)}", str(faulty_client.calls))
    assert len(numbers) > 30
    assert [number for number in numbers if not re.fullmatch(r"'-?\d+'", number)] == []


FAIL_MANY_TIMES = """
import sys
import anyio
from gogoscope.persistence import open_persistence

async def main():
    async with open_persistence(sys.argv[1]) as store, anyio.create_task_group() as tasks:
        async def fail():
            for _ in range(50):
                await store.record_failure("c", 10_000)
        for _ in range(20):
            tasks.start_soon(fail)

anyio.run(main)
"""


async def test_failures_recorded_by_two_processes_at_once_are_counted_exactly(
    atomic_dynamodb_url: str, anyio_backend_name: str
) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", FAIL_MANY_TIMES, atomic_dynamodb_url])
        for _ in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    async with open_persistence(atomic_dynamodb_url) as store:
        state = await store.get_state("c")
        assert state is not None
        assert (state.failure_count, state.state) == (2000, "closed")
