"""How our own clients are set, and the session that is kept for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import aioboto3  # type: ignore[import-untyped]
import anyio
import pytest

from gogoscope.exceptions import Effect
from gogoscope_dynamodb import sessions
from gogoscope_dynamodb.client import open_client
from gogoscope_dynamodb.errors import classify
from gogoscope_dynamodb.sessions import kept_session
from tests.support.engines import DUMMY_CREDENTIALS
from tests.support.http_answers import AnsweringServer, Reply

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio", "credentials")]

GET: dict[str, Any] = {"TableName": "table", "Key": {"pk": {"S": "k"}, "sk": {"S": "METADATA"}}}


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DUMMY_CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def server() -> AsyncIterator[AnsweringServer]:
    server = AnsweringServer()
    async with server.running():
        yield server


async def test_a_process_keeps_one_session_for_the_same_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await kept_session("us-east-1")
    assert await kept_session("eu-west-1") is first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert await kept_session("us-east-1") is not first


async def test_the_oldest_sessions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_KEPT", 2)
    kept = []
    for number in range(4):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"key-{number}")
        kept.append(await kept_session())
    assert len(sessions._kept) <= 2
    assert kept[-1] in sessions._kept.values()


@pytest.mark.parametrize("mode", ["adaptive", "standard", "legacy"])
async def test_the_retry_mode_of_the_environment_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, server: AnsweringServer, mode: str
) -> None:
    monkeypatch.setenv("AWS_RETRY_MODE", mode)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    throttled = {"__type": "com.amazon.coral.availability#ThrottlingException", "message": "slow"}
    server.replies += [Reply.of(throttled, 400)] * 3
    async with open_client(endpoint_url=server.url) as client:
        with anyio.fail_after(5):  # "adaptive" would send one request in two seconds after this
            for _ in range(3):
                with pytest.raises(Exception, match="ThrottlingException"):
                    await client.get_item(**GET)
            for _ in range(20):
                await client.get_item(**GET)
    assert len(server.got) == 23


async def test_a_damaged_answer_is_an_error_that_leaves_it_open_what_was_applied(
    server: AnsweringServer,
) -> None:
    server.replies.append(Reply.of({"Item": {"pk": {"S": "k"}}}, x_amz_crc32="1"))
    async with open_client(endpoint_url=server.url) as client:
        with pytest.raises(Exception, match="Checksum") as caught:
            await client.get_item(**GET)
    assert classify(caught.value).effect is Effect.MAYBE_APPLIED
    assert len(server.got) == 1


@pytest.mark.parametrize("app_id", [None, "orders"])
async def test_the_name_of_a_client_tells_the_package_the_sdk_and_the_app(
    monkeypatch: pytest.MonkeyPatch, server: AnsweringServer, app_id: str | None
) -> None:
    monkeypatch.delenv("AWS_SDK_UA_APP_ID", raising=False)
    if app_id:
        monkeypatch.setenv("AWS_SDK_UA_APP_ID", app_id)
    async with open_client(endpoint_url=server.url) as client:
        await client.get_item(**GET)
    name = server.got[0].headers["user-agent"]
    assert name.startswith(f"gogoscope/{version('gogoscope')} aiobotocore/")
    assert name.count(" botocore/") == 1
    assert (" app/orders" in name) is (app_id is not None)


async def test_own_clients_send_what_others_send(server: AnsweringServer) -> None:
    """But for their name, and for what is of the moment."""
    key = {"pk": {"S": "k"}, "sk": {"S": "METADATA"}}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("get_item", GET),
        ("put_item", {"TableName": "table", "Item": {**key, "n": {"N": "1"}}}),
        ("update_item", {"TableName": "table", "Key": key, "UpdateExpression": "REMOVE n"}),
        ("delete_item", {"TableName": "table", "Key": key}),
        ("scan", {"TableName": "table"}),
        ("batch_get_item", {"RequestItems": {"table": {"Keys": [key]}}}),
        ("describe_table", {"TableName": "table"}),
    ]
    other: Any = aioboto3.Session().client("dynamodb", endpoint_url=server.url)
    async with open_client(endpoint_url=server.url) as own, other as plain:
        for operation, parameters in requests:
            for client in (own, plain):
                await getattr(client, operation)(**parameters)
            first, second = server.got[-2:]
            assert (first.line, first.body) == (second.line, second.body)
            assert first.headers.keys() == second.headers.keys()
            changing = ("user-agent", "amz-sdk-", "x-amz-date", "authorization")
            for name in first.headers:
                assert name.startswith(changing) or first.headers[name] == second.headers[name]


async def test_parameters_are_not_validated_again(server: AnsweringServer) -> None:
    async with open_client(endpoint_url=server.url) as client:
        await client.get_item(TableName="table", Key={"pk": {"S": 7}})
    assert server.got[0].body == b'{"TableName": "table", "Key": {"pk": {"S": 7}}}'
