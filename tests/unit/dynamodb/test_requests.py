"""Requests are bounded in time and tried again only where that is safe; on every event loop."""

from __future__ import annotations

import json
from typing import Any, Literal

import anyio
import pytest

from gogoscope.exceptions import (
    ConfigurationError,
    Effect,
    PersistenceError,
    RecordTooLargeError,
    StoreConnectionError,
    StoreTimeoutError,
    ThrottledError,
    UnexpectedStoreError,
)
from gogoscope.testing import VirtualClock
from gogoscope_dynamodb import requests
from gogoscope_dynamodb.answers import Update
from gogoscope_dynamodb.requests import Table, backoff
from tests.support.dynamodb_faults import (
    FaultyClient,
    answer,
    be_silent,
    be_unreachable,
    lose_request,
    never_answer,
    refuse,
)

pytestmark = pytest.mark.anyio

WRITE = Update("SET #data = :data", "#version = :seen")
VALUES = {":data": {"S": "x"}, ":seen": {"N": "1"}, ":unused": {"N": "2"}}
KEY = {"pk": {"S": "LOCK#k"}, "sk": {"S": "METADATA"}}

throttle = refuse("ThrottlingException")
refuse_condition = refuse(
    "ConditionalCheckFailedException", Item={"pk": {"S": "LOCK#k"}, "version": {"N": "7"}}
)


@pytest.fixture
def client() -> FaultyClient:
    return FaultyClient()


@pytest.fixture
def table(client: FaultyClient, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(requests, "FIRST_DELAY", 0.001)
    return Table("t", client, 0.05)


async def test_a_write_sends_only_the_names_and_values_that_it_uses(
    client: FaultyClient, table: Table
) -> None:
    client.faults.append(answer({"Attributes": {"version": {"N": "8"}}}))
    reply = await table.update(KEY, WRITE, VALUES)
    assert reply.granted
    assert reply.item == {"version": {"N": "8"}}
    assert not reply.in_doubt
    ((operation, parameters),) = client.calls
    assert operation == "update_item"
    assert parameters["ExpressionAttributeNames"] == {"#data": "data", "#version": "version"}
    assert set(parameters["ExpressionAttributeValues"]) == {":data", ":seen"}


async def test_an_alias_replaces_a_name(client: FaultyClient, table: Table) -> None:
    client.faults.append(answer({}))
    await table.update(KEY, WRITE, VALUES, aliases={"#data": "other", "#unused": "no"})
    assert client.calls[0][1]["ExpressionAttributeNames"] == {
        "#data": "other",
        "#version": "version",
    }


async def test_a_refused_condition_is_an_answer_with_the_item_that_it_found(
    client: FaultyClient, table: Table
) -> None:
    client.faults.append(refuse_condition)
    reply = await table.update(KEY, WRITE, VALUES)
    assert not reply.granted
    assert reply.item is not None
    assert reply.item["version"] == {"N": "7"}
    assert not reply.in_doubt


async def test_a_refusal_without_an_item_shows_that_there_is_none(
    client: FaultyClient, table: Table
) -> None:
    client.faults.append(refuse("ConditionalCheckFailedException"))
    assert (await table.update(KEY, WRITE, VALUES)).item is None


@pytest.mark.parametrize("fault", [lose_request, never_answer])
async def test_an_unanswered_write_is_sent_again_unchanged_and_then_in_doubt(
    client: FaultyClient, table: Table, fault: Any
) -> None:
    client.client = FaultyClient()
    client.client.faults.append(answer({}))
    client.faults += [fault, refuse_condition]
    reply = await table.update(KEY, WRITE, VALUES)
    assert reply.in_doubt
    assert not reply.granted
    first, second = client.calls
    assert first == second


async def test_an_answer_to_a_request_that_the_client_sent_again_by_itself_is_in_doubt(
    client: FaultyClient, table: Table
) -> None:
    retried: dict[str, Any] = {"ResponseMetadata": {"RetryAttempts": 1}}
    client.faults.append(refuse("ConditionalCheckFailedException", **retried))
    assert (await table.update(KEY, WRITE, VALUES)).in_doubt
    client.faults += [refuse("ThrottlingException", **retried), refuse_condition]
    assert (await table.update(KEY, WRITE, VALUES)).in_doubt
    client.faults.append(answer(retried))
    assert (await table.update(KEY, WRITE, VALUES)).in_doubt


@pytest.mark.parametrize("fault", [be_unreachable, throttle])
async def test_a_try_that_was_certainly_not_applied_leaves_no_doubt(
    client: FaultyClient, table: Table, fault: Any
) -> None:
    client.faults += [fault, refuse_condition]
    reply = await table.update(KEY, WRITE, VALUES)
    assert not reply.in_doubt
    assert len(client.calls) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (be_unreachable, StoreConnectionError),
        (lose_request, StoreTimeoutError),
        (throttle, ThrottledError),
        (refuse("InternalServerError", status=500), StoreTimeoutError),
        (refuse("SomethingNew", status=503), StoreTimeoutError),
    ],
)
async def test_a_write_that_keeps_failing_ends_with_an_error_that_tells_if_it_may_be_done(
    client: FaultyClient, table: Table, fault: Any, error: type[PersistenceError]
) -> None:
    client.faults += [fault] * 20
    with pytest.raises(error) as caught:
        await table.update(KEY, WRITE, VALUES)
    assert type(caught.value) is error
    assert caught.value.retryable
    assert caught.value.__cause__ is not None
    assert "'t'" in str(caught.value)
    assert 2 <= len(client.calls) <= requests.MOST_TRIES


async def test_one_unanswered_try_decides_though_the_last_one_was_throttled(
    client: FaultyClient, table: Table
) -> None:
    client.faults += [lose_request] + [throttle] * 20
    with pytest.raises(StoreTimeoutError):
        await table.update(KEY, WRITE, VALUES)


async def test_a_read_is_never_in_doubt(client: FaultyClient, table: Table) -> None:
    client.faults += [lose_request] * 20
    with pytest.raises(StoreConnectionError):
        await table.read(KEY, consistent=True)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_silent_server_gets_three_tries_and_no_more(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
) -> None:
    async def main() -> None:
        with pytest.raises(StoreTimeoutError, match="3 tries: no answer"):
            await table.update(KEY, WRITE, VALUES)

    client.faults += [be_silent] * 20
    virtual_clock.run(main, backend=backend)
    assert len(client.calls) == 3
    assert virtual_clock.elapsed() < 4 * table.timeout


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (refuse("AccessDeniedException", "no permission"), ConfigurationError, "no permission"),
        (refuse("UnrecognizedClientException"), ConfigurationError, "Unrecognized"),
        (refuse("ValidationException", "Item size has exceeded"), RecordTooLargeError, "size"),
        (refuse("ExpiredTokenException", "expired"), PersistenceError, "expired"),
        (refuse("ResourceNotFoundException"), ConfigurationError, r"create_table\(client, 't'\)"),
    ],
)
async def test_a_request_that_cannot_succeed_is_not_tried_again(
    client: FaultyClient, table: Table, fault: Any, error: type[Exception], text: str
) -> None:
    client.faults += [fault] * 5
    with pytest.raises(error, match=text) as caught:
        await table.update(KEY, WRITE, VALUES)
    assert type(caught.value) is error
    assert len(client.calls) == 1


async def test_a_table_with_other_keys_is_shown_with_the_keys_that_are_needed(
    client: FaultyClient, table: Table
) -> None:
    description = {
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "N"}],
    }
    client.faults += [
        refuse("ValidationException", "The provided key element does not match the schema"),
        answer({"Table": description}),
    ]
    with pytest.raises(ConfigurationError) as caught:
        await table.update(KEY, WRITE, VALUES)
    assert "id (N, HASH)" in str(caught.value)
    assert "pk (S, HASH), sk (S, RANGE)" in str(caught.value)


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
async def test_an_invalid_request_is_shown_though_the_table_cannot_be_described(
    client: FaultyClient, table: Table, code: str
) -> None:
    client.faults += [refuse("ValidationException", "a bad expression"), refuse(code)]
    with pytest.raises(PersistenceError, match="a bad expression"):
        await table.update(KEY, WRITE, VALUES)
    assert client.operations == ["update_item", "describe_table"]


@pytest.mark.parametrize("reply", [answer({}), refuse("AccessDeniedException")])
async def test_an_empty_table_is_asked_for_its_keys_once_if_that_is_allowed(
    client: FaultyClient, table: Table, reply: Any
) -> None:
    client.faults.append(reply)
    for _ in range(2):
        await table.found_nothing()
    assert client.operations == ["get_item"]


@pytest.mark.parametrize("own", [KeyError("AccessKeyId"), json.JSONDecodeError("no JSON", "", 0)])
async def test_what_renewing_the_credentials_raises_comes_out_as_an_error_of_the_store(
    client: FaultyClient, table: Table, own: Exception
) -> None:
    async def renew_credentials(perform: Any) -> Any:
        raise own

    client.faults.append(renew_credentials)
    with pytest.raises(UnexpectedStoreError, match=type(own).__name__) as caught:
        await table.update(KEY, WRITE, VALUES)
    assert caught.value.__cause__ is own
    assert len(client.calls) == 1


async def test_a_request_cancelled_in_flight_is_not_sent_again(
    client: FaultyClient, table: Table
) -> None:
    client.client = FaultyClient()
    client.client.faults.append(answer({}))
    client.faults.append(never_answer)
    table.timeout = 60
    with anyio.move_on_after(0.01) as scope:
        await table.update(KEY, WRITE, VALUES)
    assert scope.cancelled_caught
    assert len(client.calls) == 1


async def test_a_request_cancelled_between_tries_is_not_sent_again(
    client: FaultyClient, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "backoff", lambda tried: 30.0)
    table.timeout = 60
    client.faults.append(throttle)
    with anyio.move_on_after(0.01) as scope:
        await table.update(KEY, WRITE, VALUES)
    assert scope.cancelled_caught
    assert len(client.calls) == 1


def test_delays_grow_to_a_limit_and_are_drawn_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr("gogoscope_dynamodb.requests.uniform", uniform)
    assert [backoff(tried) for tried in (1, 2, 3, 4, 5, 6, 7)] == [
        *(0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0)
    ]
    assert {low for low, _ in drawn} == {0}


@pytest.mark.parametrize(
    ("faults", "effect"),
    [
        ([be_unreachable] * 20, Effect.NOT_SENT),
        ([throttle] * 20, Effect.FAILED),
        ([be_unreachable, throttle, *[be_unreachable] * 20], Effect.FAILED),
        ([lose_request, *[throttle] * 20], Effect.MAYBE_APPLIED),
        ([refuse("ValidationException", "no")] * 20, Effect.FAILED),
        ([lose_request, refuse("ValidationException", "no")], Effect.MAYBE_APPLIED),
    ],
)
async def test_an_error_carries_what_all_tries_together_may_have_done(
    client: FaultyClient, table: Table, faults: list[Any], effect: Effect
) -> None:
    client.constant_faults["put_item"] = answer({})
    client.faults += faults
    with pytest.raises(PersistenceError) as caught:
        await table.update(KEY, WRITE, VALUES)
    assert caught.value.effect is effect


async def test_an_error_of_a_read_never_says_that_it_may_have_been_applied(
    client: FaultyClient, table: Table
) -> None:
    client.faults += [lose_request] * 20
    with pytest.raises(PersistenceError) as caught:
        await table.read(KEY, consistent=True)
    assert caught.value.effect is Effect.FAILED


async def test_a_store_that_is_closed_sends_nothing_and_says_so() -> None:
    with pytest.raises(PersistenceError) as caught:
        await Table("t", None, 0.05).read(KEY, consistent=True)
    assert caught.value.effect is Effect.NOT_SENT
