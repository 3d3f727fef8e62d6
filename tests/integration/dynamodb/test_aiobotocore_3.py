"""A store on a client of aiobotocore 3: with its session of httpx on trio, too.

aioboto3 pins an older aiobotocore, so these tests need an environment of their own. From the
repository, with a folder NEW:

    python -m venv NEW
    NEW/bin/pip install -e '.[redis,postgres]' 'aiobotocore[httpx]>=3' \
        hypothesis psutil 'psycopg[binary]' pytest pytest-xdist trio uvloop
    NEW/bin/python -m pytest -m "engine or not engine" \
        tests/integration/dynamodb/test_aiobotocore_3.py tests/unit/dynamodb/test_short_cut.py
"""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import anyio
import pytest
from aiobotocore.session import get_session

from gogoscope import CircuitBreaker, scope
from gogoscope.exceptions import StoreConnectionError, StoreTimeoutError
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from tests.support.engines import Engine, new_table_name
from tests.support.http_answers import AnsweringServer, Reply

HOW = "aioboto3 pins an older aiobotocore; the head of this file says how to run it with version 3"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:aiobotocore's httpx backend:DeprecationWarning"),
    pytest.mark.skipif(int(version("aiobotocore").split(".")[0]) < 3, reason=HOW),
    pytest.mark.skipif(not importlib.util.find_spec("httpx"), reason=HOW),
]


@pytest.fixture(params=["httpx", "aiohttp"])
def http_library(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    """The library that sends; aiohttp is for asyncio alone."""
    if request.param == "aiohttp" and anyio_backend_name == "trio":
        pytest.skip("aiohttp runs on asyncio only")
    return str(request.param)


def new_client(http_library: str, url: str) -> AbstractAsyncContextManager[Any]:
    """Return a client as its user would make it."""
    session_class = {
        "httpx": ("aiobotocore.httpxsession", "HttpxSession"),
        "aiohttp": ("aiobotocore.httpsession", "AIOHTTPSession"),
    }[http_library]
    config = import_module("aiobotocore.config").AioConfig(
        http_session_cls=getattr(import_module(session_class[0]), session_class[1]),
        retries={"mode": "legacy", "total_max_attempts": 1},
    )
    session: Any = get_session()
    client: AbstractAsyncContextManager[Any] = session.create_client(
        "dynamodb",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )
    return client


@pytest.fixture
async def store(
    dynamodb_engine: Engine, http_library: str, anyio_backend: Any
) -> AsyncIterator[DynamoDBAdapter]:
    """A store on a fresh table."""
    async with new_client(http_library, dynamodb_engine.endpoint_url) as client:
        name = new_table_name()
        await create_table(client, name)
        yield DynamoDBAdapter(client, name, request_timeout=10)
        await client.delete_table(TableName=name)


async def test_every_capability_works_in_a_scope(store: DynamoDBAdapter) -> None:
    async with scope(persistence=store) as s:
        async with s.lock("k", ttl=5) as locked:
            token = locked.fencing_token
            assert await s.acquire_lock("k", ttl=5, wait=0) is None
        async with s.lock("k", ttl=5) as locked:
            assert locked.fencing_token > token
        assert await s.cache.get_or_set("v", _value, ttl=60) == {"a": 1}
        await s.cache.set_many({f"k{number}": number for number in range(60)})
        assert len(await s.cache.get_many([f"k{number}" for number in range(60)])) == 60
        assert len(await s.cache.keys()) == 61
        breaker = CircuitBreaker(failure_threshold=1, name="it")
        await s.task(_fail, circuit_breaker=breaker, on_error=lambda _: None).wait()
    state = await store.get_state("it")
    assert state is not None
    assert state.state == "open"


async def _value() -> dict[str, int]:
    return {"a": 1}


async def _fail() -> None:
    raise RuntimeError


async def test_many_requests_at_once_are_answered(store: DynamoDBAdapter) -> None:
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(store.set, str(number), number)
    assert [await store.get(str(number)) for number in range(0, 100, 9)] == [*range(0, 100, 9)]


async def test_a_refused_connection_is_a_connection_error(http_library: str) -> None:
    with socket.socket() as taken:  # which nobody else can listen on, and this one does not
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with new_client(http_library, url) as client:
            store = DynamoDBAdapter(client, "table", request_timeout=1)
            with pytest.raises(StoreConnectionError):
                await store.set("k", 1)


async def test_an_answer_that_is_cut_off_leaves_it_open_what_was_applied(http_library: str) -> None:
    server = AnsweringServer(Reply.of({"Attributes": {}}, content_length="9999"))
    async with server.running(), new_client(http_library, server.url) as client:
        with pytest.raises(StoreTimeoutError):
            await DynamoDBAdapter(client, "table", request_timeout=1).set("k", 1)
    assert len(server.got) > 1


async def test_a_request_that_takes_too_long_is_given_up(http_library: str) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
    async with listener, new_client(http_library, url) as client:
        with anyio.fail_after(10), pytest.raises(StoreTimeoutError):
            await DynamoDBAdapter(client, "table", request_timeout=0.2).get("k")
