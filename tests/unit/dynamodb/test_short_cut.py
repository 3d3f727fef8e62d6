"""The short cut through the AWS SDK: the same as the SDK's whole way, request by request.

Two clients that differ in nothing else send the same requests to a server whose answers are given.
The clients are made with aiobotocore alone, so these tests run with its version 3, too.
"""

from __future__ import annotations

import datetime as dt
import functools
import random
import string
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from aiobotocore.session import get_session
from attrs import frozen
from botocore import auth as botocore_auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from gogoscope.exceptions import Effect
from gogoscope_dynamodb import short_cut
from gogoscope_dynamodb.errors import classify
from gogoscope_dynamodb.short_cut import Signer, take_short_cut
from tests.support.http_answers import AnsweringServer, Got, Reply

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio")]

KEY = {"pk": {"S": "CACHE#k"}, "sk": {"S": "METADATA"}}
ITEM = {
    **KEY,
    "version": {"N": "1764324123123000"},
    "data": {
        "M": {"json": {"S": '{"naïve": [1, null, "\\u20ac \\" \'"]}'}, "none": {"NULL": True}}
    },
    "list": {"L": [{"BOOL": False}, {"SS": ["a", "b"]}, {"NS": ["1", "2"]}, {"M": {}}, {"L": []}]},
    "": {"S": ""},
}
GET: dict[str, Any] = {"TableName": "table", "Key": KEY, "ConsistentRead": True}
PUT: dict[str, Any] = {"TableName": "table", "Item": ITEM}
UPDATE: dict[str, Any] = {
    "TableName": "table",
    "Key": KEY,
    "UpdateExpression": "SET #owner = :owner, #data = :lease",
    "ExpressionAttributeNames": {"#owner": "owner", "#data": "data"},
    "ExpressionAttributeValues": {":owner": {"S": "größer"}, ":lease": {"M": {"n": {"N": "1"}}}},
    "ConditionExpression": "attribute_not_exists(#owner)",
    "ReturnValues": "ALL_NEW",
    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
}
DELETE: dict[str, Any] = {"TableName": "table", "Key": KEY, "ReturnValues": "ALL_OLD"}
ONE_ITEM = [("get_item", GET), ("put_item", PUT), ("update_item", UPDATE), ("delete_item", DELETE)]
BINARY: dict[str, Any] = {"TableName": "table", "Item": {**KEY, "data": {"B": b"\0\xff"}}}

OF_THE_MOMENT = {"x-amz-date", "authorization", "amz-sdk-invocation-id"}


@frozen
class Clients:
    """Two clients, and their server."""

    server: AnsweringServer
    fast: Any
    plain: Any

    async def both(
        self, operation: str, parameters: dict[str, Any], reply: Reply | None = None
    ) -> tuple[Any, Any]:
        """Send a request on both; return the answers, or the errors that came instead."""
        outcomes = []
        for client in (self.fast, self.plain):
            if reply is not None:
                self.server.replies.append(reply)
            try:
                outcomes.append(await getattr(client, operation)(**parameters))
            except Exception as error:
                outcomes.append(error)
        return outcomes[0], outcomes[1]

    @property
    def last_two(self) -> tuple[Got, Got]:
        """The last request of each."""
        return self.server.got[-2], self.server.got[-1]


@pytest.fixture
async def clients(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    server = AnsweringServer()
    async with server.running(), AsyncExitStack() as stack:
        fast = await stack.enter_async_context(new_client(server.url))
        take_short_cut(fast)
        yield Clients(server, fast, await stack.enter_async_context(new_client(server.url)))


@functools.cache
def session() -> Any:
    return get_session()


def new_client(url: str, **options: Any) -> Any:
    config = Config(
        retries={"mode": "legacy", "total_max_attempts": 1},
        parameter_validation=False,
        user_agent="test",
        connect_timeout=5,
        read_timeout=5,
    )
    credentials = {"aws_access_key_id": "ID", "aws_secret_access_key": "secret"}
    return session().create_client(
        "dynamodb",
        region_name="eu-west-1",
        endpoint_url=url,
        config=config,
        **{**credentials, **options},
    )


def taken(got: Got) -> bool:
    """Whether a request took the short cut: those are numbered, and the SDK's have random ids."""
    return int(got.headers["amz-sdk-invocation-id"][-12:], 16) < 1000


def without(headers: dict[str, str], names: set[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


def told(error: Any) -> tuple[Any, ...]:
    """What an error says, but for where it was raised."""
    response = getattr(error, "response", None)
    if response is not None:
        metadata = dict(response["ResponseMetadata"])
        metadata.pop("MaxAttemptsReached", None)  # which the SDK adds where it would try again
        response = {**response, "ResponseMetadata": metadata}
    return type(error).__name__, str(error).replace(" (reached max retries: 0)", ""), response


@pytest.mark.parametrize(("operation", "parameters"), ONE_ITEM)
async def test_the_same_bytes_are_sent(
    clients: Clients, operation: str, parameters: dict[str, Any]
) -> None:
    fast_answer, plain_answer = await clients.both(operation, parameters)
    fast, plain = clients.last_two
    assert (taken(fast), taken(plain)) == (True, False)
    assert fast_answer == plain_answer
    assert (fast.line, fast.body) == (plain.line, plain.body)
    assert without(fast.headers, OF_THE_MOMENT) == without(plain.headers, OF_THE_MOMENT)
    assert fast.headers.keys() == plain.headers.keys()
    assert signed_headers(fast) == signed_headers(plain)


def signed_headers(got: Got) -> str:
    return got.headers["authorization"].split("SignedHeaders=")[1].split(",")[0]


async def test_each_request_has_an_id_of_its_own(clients: Clients) -> None:
    for _ in range(3):
        await clients.fast.get_item(**GET)
    ids = {got.headers["amz-sdk-invocation-id"] for got in clients.server.got}
    assert len(ids) == 3
    assert all([len(part) for part in one.split("-")] == [8, 4, 4, 4, 12] for one in ids)


def random_text(chosen: random.Random) -> str:
    letters = string.printable + "äß€\U0001f512"
    return "".join(chosen.choices(letters, k=chosen.randrange(40)))


@pytest.mark.parametrize("seed", range(4))
async def test_signatures_are_those_of_botocore(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chosen = random.Random(seed)
    token = chosen.choice([None, "a token=="])
    credentials = ReadOnlyCredentials(f"ID{seed}", random_text(chosen), token)
    moment = dt.datetime.fromtimestamp(chosen.randrange(2**31), dt.UTC)
    host = chosen.choice(["dynamodb.eu-west-1.amazonaws.com", "localhost:8000", "HOST.example:443"])
    url = f"https://{host}/"
    monkeypatch.setattr(time, "time", moment.timestamp)
    for name in ("get_current_datetime", "datetime"):
        if hasattr(botocore_auth, name):
            now = lambda *_, **__: moment.replace(tzinfo=None)  # noqa: E731
            value = (
                now
                if name == "get_current_datetime"
                else SimpleNamespace(datetime=SimpleNamespace(utcnow=now, now=now))
            )
            monkeypatch.setattr(botocore_auth, name, value)

    class RequestSigner:
        signature_version = "v4"

        async def get_auth_instance(self, name: str, region: str, version: str) -> Any:
            return botocore_auth.SigV4Auth(credentials, name, region)

    use = (int(moment.timestamp()), url, "eu-west-1", "dynamodb", None)
    signer = await short_cut._new_signer(use, RequestSigner())
    assert isinstance(signer, Signer)
    for _ in range(500):
        body = random_text(chosen).encode()
        headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{chosen.choice(sorted(short_cut.OPERATIONS))}",
            "Content-Type": "application/x-amz-json-1.0",
            "User-Agent": random_text(chosen),
            **({"X-Amzn-Trace-Id": "Root=1"} if chosen.random() < 0.5 else {}),
            **({"X-More": "  two   spaces "} if chosen.random() < 0.5 else {}),
        }
        request = AWSRequest("POST", url, headers, body)
        botocore_auth.SigV4Auth(credentials, "dynamodb", "eu-west-1").add_auth(request)
        assert signer.signed(headers, body) == dict(request.headers.items())


ANSWERS = [
    Reply.of({}),
    Reply.of({"Item": ITEM}),
    Reply.of({"Attributes": ITEM, "ConsumedCapacity": {"TableName": "t", "CapacityUnits": 0.5}}),
    Reply.of({"Item": {**ITEM, "data": {"B": "AP8="}}}),
    Reply.of({"Item": {**ITEM, "data": {"BS": ["AP8=", ""]}}}),
    Reply.of({"Item": None, "ConsumedCapacity": None}),
    Reply.of({"Item": ITEM, "SomethingNew": 7}),
    Reply.of({"Item": ITEM}, x_amzn_requestid=None, x_amz_crc32=None, Server="Server"),
    Reply(b""),
    Reply(b"<html>a portal</html>", headers={"content-type": "text/html", "x-amz-crc32": None}),
    Reply(b'{"Item": {"pk"', headers={"x-amz-crc32": None}),
    Reply(b"[]"),
    Reply(b"7"),
    Reply(b'{"Item": []}'),
    Reply(b'{"Item": {}}', 201),
]


@pytest.mark.parametrize(("operation", "parameters"), [ONE_ITEM[0], ONE_ITEM[2]])
async def test_the_same_answers_come_back(
    clients: Clients, operation: str, parameters: dict[str, Any]
) -> None:
    for reply in ANSWERS:
        fast, plain = await clients.both(operation, parameters, reply)
        assert taken(clients.server.got[-2]), reply
        if isinstance(plain, Exception):
            assert told(fast) == told(plain), reply
        else:
            assert fast == plain, reply


CORAL = "com.amazon.coral.service#"
DYNAMO = "com.amazonaws.dynamodb.v20120810#"
ERRORS = [
    Reply.of({"__type": f"{DYNAMO}ConditionalCheckFailedException", "Message": "no"}, 400),
    Reply.of(
        {
            "__type": f"{DYNAMO}ConditionalCheckFailedException",
            "message": "The conditional request failed",
            "Item": {**ITEM, "bytes": {"B": "AP8="}},
        },
        400,
    ),
    Reply.of({"__type": f"{DYNAMO}ProvisionedThroughputExceededException"}, 400),
    Reply.of({"__type": "com.amazon.coral.availability#ThrottlingException", "message": "b"}, 400),
    Reply.of({"__type": f"{DYNAMO}ResourceNotFoundException", "message": "no table"}, 400),
    Reply.of({"__type": f"{CORAL}UnrecognizedClientException", "message": "who?"}, 400),
    Reply.of({"__type": f"{DYNAMO}InternalServerError", "message": "oh"}, 500),
    Reply.of({"__type": "Unheard#OfException", "message": "new"}, 418),
    Reply.of({"no": "type"}, 400),
    Reply(b"", 503),
    Reply(b"<html><body>Service Unavailable</body></html>", 503, {"x-amz-crc32": None}),
    Reply(b"not json", 400),
    Reply(b"", 429),
    Reply(b"", 302, {"location": "http://127.0.0.1:9/"}),
]


async def test_the_same_errors_come_back_with_what_the_server_added(clients: Clients) -> None:
    for reply in ERRORS:
        fast, plain = await clients.both("update_item", UPDATE, reply)
        assert taken(clients.server.got[-2]), reply
        assert isinstance(plain, Exception), reply
        assert told(fast) == told(plain), reply


BROKEN = [
    Reply.of({"Item": ITEM}, x_amz_crc32="1"),
    Reply.of({"__type": "ConditionalCheckFailedException"}, 400, x_amz_crc32="1"),
    Reply.of({"Item": ITEM}, content_length="9999"),
    Reply(b"nothing that HTTP knows", headers={"content-length": "x"}),
]


async def test_broken_answers_are_the_same_errors(clients: Clients) -> None:
    for reply in BROKEN:
        fast, plain = await clients.both("get_item", GET, reply)
        assert isinstance(plain, Exception), reply
        assert type(fast) is type(plain), reply
        assert getattr(fast, "kwargs", {}).keys() == getattr(plain, "kwargs", {}).keys(), reply
        assert classify(fast) == classify(plain), reply


async def test_a_damaged_error_leaves_it_open_what_was_applied(clients: Clients) -> None:
    """Where the SDK would try again, it says so without looking at the checksum."""
    damaged = Reply.of({"__type": "InternalServerError"}, 500, x_amz_crc32="1")
    for error in await clients.both("update_item", UPDATE, damaged):
        assert classify(error).effect is Effect.MAYBE_APPLIED


async def test_a_refused_connection_is_the_same_error(clients: Clients) -> None:
    async with new_client("http://127.0.0.1:9") as fast, new_client("http://127.0.0.1:9") as plain:
        take_short_cut(fast)
        refused = Clients(clients.server, fast, plain)
        fast_error, plain_error = await refused.both("get_item", GET)
    assert isinstance(plain_error, Exception)
    assert told(fast_error) == told(plain_error)


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("put_item", BINARY),
        ("scan", {"TableName": "table", "Limit": 5}),
        ("batch_get_item", {"RequestItems": {"table": {"Keys": [KEY]}}}),
        ("batch_write_item", {"RequestItems": {"table": [{"PutRequest": {"Item": ITEM}}]}}),
        ("describe_table", {"TableName": "table"}),
    ],
)
async def test_what_it_does_not_know_is_left_to_the_sdk(
    clients: Clients, operation: str, parameters: dict[str, Any]
) -> None:
    fast_answer, plain_answer = await clients.both(operation, parameters)
    fast, plain = clients.last_two
    assert not taken(fast)
    assert fast_answer == plain_answer
    assert (fast.line, fast.body) == (plain.line, plain.body)


async def test_parameters_that_no_json_holds_are_the_errors_of_the_sdk(clients: Clients) -> None:
    for wrong in ({"TableName": "table", "Key": {"pk": {"S": object()}}}, {"Key": KEY}):
        fast, plain = await clients.both("get_item", wrong)
        if isinstance(plain, Exception):
            assert told(fast) == told(plain)
    assert not any(taken(got) for got in clients.server.got)


async def test_an_endpoint_with_a_path_is_left_to_the_sdk(clients: Clients) -> None:
    async with new_client(f"{clients.server.url}/a path") as client:
        take_short_cut(client)
        assert (await client.get_item(**GET))["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert not taken(clients.server.got[-1])
    assert clients.server.got[-1].line.startswith("POST /a")
    assert clients.server.got[-1].body.startswith(b'{"TableName": "table", "Key"')


async def test_a_client_that_signs_as_it_is_told_to_is_left_to_the_sdk(clients: Clients) -> None:
    if not hasattr(clients.fast.meta.config, "auth_scheme_preference"):
        pytest.skip("this version of the SDK has no such setting")
    async with new_client(clients.server.url) as client:
        client.meta.config.auth_scheme_preference = "sigv4a"
        take_short_cut(client)
        await client.get_item(**GET)
    assert not taken(clients.server.got[-1])


@frozen
class Kept:
    """Credentials that count how often they are asked for."""

    values: list[ReadOnlyCredentials]
    asked: list[float]
    error: list[Exception]

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        self.asked.append(time.time())
        if self.error:
            raise self.error[0]
        return self.values[0]


@pytest.fixture
def kept(clients: Clients) -> Kept:
    kept = Kept([ReadOnlyCredentials("FIRST", "secret", "token 1")], [], [])
    clients.fast._request_signer._credentials = kept
    return kept


def used(got: Got) -> tuple[str, str | None]:
    access_key = got.headers["authorization"].split("Credential=")[1].split("/")[0]
    return access_key, got.headers.get("x-amz-security-token")


async def test_the_sdk_is_asked_for_credentials_in_every_second(
    clients: Clients, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_764_324_123.0
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(10):
        await clients.fast.get_item(**GET)
        now += 0.05
    assert len(kept.asked) == 1
    kept.values[0] = ReadOnlyCredentials("SECOND", "another secret", None)
    now += 1
    await clients.fast.get_item(**GET)
    assert [used(got) for got in clients.server.got[-2:]] == [
        ("FIRST", "token 1"),
        ("SECOND", None),
    ]
    now -= 3600  # a clock that is set back
    await clients.fast.get_item(**GET)
    assert clients.server.got[-1].headers["x-amz-date"] == "20251128T090204Z"


async def test_credentials_that_cannot_be_renewed_are_the_error_of_the_sdk(
    clients: Clients, kept: Kept
) -> None:
    kept.error.append(RuntimeError("the vault is closed"))
    with pytest.raises(RuntimeError, match="the vault is closed"):
        await clients.fast.get_item(**GET)
    kept.error.clear()
    await clients.fast.get_item(**GET)
    assert len(clients.server.got) == 1


async def test_a_client_without_credentials_says_what_the_sdk_says(clients: Clients) -> None:
    for client in (clients.fast, clients.plain):
        client._request_signer._credentials = None
    fast, plain = await clients.both("get_item", GET)
    assert type(plain).__name__ == "NoCredentialsError"
    assert told(fast) == told(plain)


async def test_many_requests_at_once_are_each_answered(clients: Clients) -> None:
    async def get(number: int) -> None:
        key = {**KEY, "pk": {"S": str(number)}}
        await clients.fast.get_item(TableName="table", Key=key)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(get, number)
    assert len({got.body for got in clients.server.got}) == 50


async def test_a_trace_of_lambda_is_sent_and_not_signed(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988;Sampled=1")
    await clients.both("get_item", GET)
    fast, plain = clients.last_two
    assert fast.headers["x-amzn-trace-id"] == plain.headers["x-amzn-trace-id"]
    assert "trace" not in signed_headers(fast)
