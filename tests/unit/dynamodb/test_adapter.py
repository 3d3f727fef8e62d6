"""What a store on DynamoDB is made of, and when it can be used; nothing here needs a server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import boto3  # type: ignore[import-untyped]
import pytest

from gogoscope.exceptions import (
    BackendUnavailableError,
    ConfigurationError,
    InvalidURLError,
    PersistenceError,
    UnsupportedEventLoopError,
)
from gogoscope.persistence import (
    CacheProvider,
    CircuitBreakerStateProvider,
    LockProvider,
    PersistenceURL,
)
from gogoscope.persistence.protocols.examination import Examinable
from gogoscope.persistence.protocols.jobs import JobProvider
from gogoscope.persistence.protocols.permits import PermitProvider
from gogoscope.persistence.protocols.rate_limits import RateLimitProvider
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.protocols.schedules import ScheduleProvider
from gogoscope.persistence.protocols.transactions import TransactItems
from gogoscope_dynamodb import DynamoDBAdapter, create_table, from_url
from gogoscope_dynamodb import adapter as adapter_module
from tests.support.dynamodb_faults import FaultyClient, answer

ARN = "arn:aws:dynamodb:eu-west-1:123456789012:table/my-table"


def parse(url: str) -> DynamoDBAdapter:
    return from_url(PersistenceURL.parse(url))


def provides_everything(adapter: DynamoDBAdapter) -> tuple[Any, ...]:
    locks: LockProvider = adapter
    circuit_breakers: CircuitBreakerStateProvider = adapter
    cache: CacheProvider = adapter
    return locks, circuit_breakers, cache


def test_an_adapter_has_every_capability() -> None:
    locks, circuit_breakers, cache = provides_everything(DynamoDBAdapter(FaultyClient(), "table"))
    assert isinstance(locks, LockProvider)
    assert isinstance(circuit_breakers, CircuitBreakerStateProvider)
    assert isinstance(cache, CacheProvider)


def test_a_store_shows_the_methods_of_its_capabilities_and_no_more() -> None:
    shown = {name for name in dir(DynamoDBAdapter(FaultyClient(), "table")) if name[0] != "_"}
    locks = {"acquire", "extend", "force_release", "holder", "locks"}
    leases = {"claim_lock", "renew_lock", "release_lock", "read_lock", "lease_left_ms"}
    turns = {"hand_over_lock", "reserve_lock"}
    circuits = {"get_state", "set_state", "force_open", "force_close", "reset_circuit", "circuits"}
    counting = {"record_failure", "record_success", "count_failures", "reset_failures"}
    probes = {"claim_probe", "settle_probe", "return_probe"}
    cache = {"get", "get_entry", "set", "touch", "delete", "has", "clear", "keys", "iterate_keys"}
    many = {"get_many", "set_many", "delete_many"}
    own = (RunProvider, JobProvider, PermitProvider, RateLimitProvider, ScheduleProvider)
    kinds = (*own, TransactItems, Examinable)
    every_store = {"aclose", "capability", "ping"}
    kept = {name for kind in kinds for name in dir(kind) if name[0] != "_"}
    assert shown == {
        *locks,
        *leases,
        *turns,
        *circuits,
        *counting,
        *probes,
        *cache,
        *many,
        *every_store,
        *kept,
    }


def test_a_url_may_set_every_option() -> None:
    adapter = parse(
        "dynamodb://My-Table?region=us-east-1&key_prefix=myapp:&endpoint_url=http://localhost:8000"
        "&max_clock_skew=1.5&consistent_reads=true&create=true&fast=true&request_timeout=3"
    )
    assert repr(adapter) == "<DynamoDBAdapter table='My-Table' key_prefix='myapp:'>"
    assert adapter._region == "us-east-1"
    assert adapter._endpoint_url == "http://localhost:8000"
    assert adapter._settings.max_clock_skew == 1.5
    assert adapter._settings.consistent_reads is True
    assert adapter._creates_table is True
    assert adapter._fast is True
    assert adapter._table.timeout == 3


def test_the_table_of_a_url_may_be_an_arn_that_tells_the_region() -> None:
    adapter = parse(f"dynamodb://{ARN}")
    assert adapter._table.name == ARN
    assert adapter._region == "eu-west-1"
    assert parse(f"dynamodb://{ARN}?region=us-west-2")._region == "us-west-2"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "dynamodb://table?regoin=x",
            "regoin.*knows: consistent_reads, create, endpoint_url, fast",
        ),
        ("dynamodb://table?region=US EAST", "region.*us-east-1"),
        ("dynamodb://table?key_prefix=app", "key_prefix.*end with one of"),
        ("dynamodb://table?endpoint_url=localhost:8000", "endpoint_url.*http://"),
        ("dynamodb://table?max_clock_skew=-1", "max_clock_skew.*0 or more"),
        ("dynamodb://table?max_clock_skew=soon", "max_clock_skew.*soon"),
        ("dynamodb://table?request_timeout=0", "request_timeout.*more than 0"),
        ("dynamodb://table?consistent_reads=yes", "consistent_reads.*true or false"),
        ("dynamodb://table?fast=yes", "fast.*true or false"),
        ("dynamodb://", "names no table"),
        ("dynamodb://a/b", "table_name must be"),
        ("dynamodb://ab", "3 to 255 letters"),
        ("dynamodb://arn:aws:s3:::bucket", "table_name must be"),
    ],
)
def test_a_malformed_url_is_refused_with_what_is_allowed(url: str, words: str) -> None:
    with pytest.raises(InvalidURLError, match=words):
        parse(url)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((FaultyClient(), 7), {}, TypeError, "table_name must be a str"),
        ((FaultyClient(), "a b"), {}, ValueError, "table_name must be"),
        ((FaultyClient(), "ab"), {}, ValueError, "table_name must be .* 3 to 255"),
        ((object(), "table"), {}, TypeError, "pass what that returns"),
        ((FaultyClient(), "table"), {"key_prefix": "app"}, ValueError, "key_prefix"),
        ((FaultyClient(), "table"), {"key_prefix": 7}, TypeError, "key_prefix"),
        ((FaultyClient(), "table"), {"max_clock_skew": -1}, ValueError, "max_clock_skew"),
        ((FaultyClient(), "table"), {"max_clock_skew": "1"}, TypeError, "max_clock_skew"),
        ((FaultyClient(), "table"), {"request_timeout": 0}, ValueError, "request_timeout"),
        ((FaultyClient(), "table"), {"region": "us-east-1"}, TypeError, "its own client"),
        ((FaultyClient(), "table"), {"create": True}, TypeError, "its own client"),
        ((FaultyClient(), "table"), {"fast": True}, TypeError, "its own client"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        DynamoDBAdapter(*arguments, **options)


def test_durations_may_be_timedeltas() -> None:
    adapter = DynamoDBAdapter(FaultyClient(), "table", max_clock_skew=timedelta(seconds=2))
    assert adapter._settings.max_clock_skew == 2


def test_a_try_takes_at_most_a_quarter_of_the_lease_in_use() -> None:
    adapter = DynamoDBAdapter(FaultyClient(), "table", request_timeout=2)
    assert adapter._lease_timeout(4000) == 1
    assert adapter._lease_timeout(60_000) == 2
    assert adapter._lease_timeout(50) == 0.1


BAD_KEYS: list[Any] = ["", 7, None, "\ud800", "k" * 2046, "é" * 1100]


@pytest.mark.anyio
@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:8])
async def test_a_bad_key_is_refused_before_anything_is_sent(key: Any) -> None:
    client = FaultyClient()
    adapter = DynamoDBAdapter(client, "table")
    for call in (
        lambda: adapter.acquire(key, 5),
        lambda: adapter.extend(key, 5, "me"),
        lambda: adapter.force_release(key),
        lambda: adapter.holder(key),
        lambda: adapter.get_state(key),
        lambda: adapter.record_failure(key, 3),
        lambda: adapter.record_success(key),
        lambda: adapter.get(key),
        lambda: adapter.set(key, 1),
        lambda: adapter.delete(key),
        lambda: adapter.has(key),
    ):
        with pytest.raises((TypeError, ValueError), match="key must"):
            await call()
    assert client.calls == []


@pytest.mark.anyio
async def test_the_longest_key_fits() -> None:
    client = FaultyClient()
    client.faults.append(answer({}))
    key = "k" * (2048 - len("CACHE#"))
    assert await DynamoDBAdapter(client, "table").get(key) is None
    with pytest.raises(ValueError, match="at most 2048 bytes with its prefix, got 2049"):
        await DynamoDBAdapter(client, "table").get(key + "k")


@pytest.mark.anyio
@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "5", None, True], ids=repr)
async def test_a_bad_lease_is_refused_before_anything_is_sent(ttl: Any) -> None:
    client = FaultyClient()
    adapter = DynamoDBAdapter(client, "table")
    with pytest.raises((TypeError, ValueError), match="ttl must"):
        await adapter.acquire("k", ttl)
    with pytest.raises((TypeError, ValueError), match="ttl must"):
        await adapter.extend("k", ttl, "me")
    if ttl is not None:
        with pytest.raises((TypeError, ValueError), match="ttl must"):
            await adapter.set("k", 1, ttl)
    assert client.calls == []


@pytest.mark.anyio
@pytest.mark.parametrize("max_failures", [0, -1, 1.5, True, None], ids=repr)
async def test_a_bad_maximum_is_refused_before_anything_is_sent(max_failures: Any) -> None:
    client = FaultyClient()
    with pytest.raises((TypeError, ValueError), match="max_failures must"):
        await DynamoDBAdapter(client, "table").record_failure("k", max_failures)
    assert client.calls == []


@pytest.mark.anyio
async def test_a_value_that_is_not_json_shaped_is_refused_with_the_path_inside_it() -> None:
    client = FaultyClient()
    with pytest.raises(TypeError, match=r"value\['a'\]\[1\]"):
        await DynamoDBAdapter(client, "table").set("k", {"a": [1, object()]})
    assert client.calls == []


@pytest.mark.anyio
async def test_a_store_of_its_own_client_says_how_to_open_it() -> None:
    adapter = parse("dynamodb://table?region=us-east-1")
    with pytest.raises(PersistenceError, match="'table' is not open; use it inside 'async with'"):
        await adapter.get("k")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["client", "resource"])
async def test_a_client_that_is_not_async_is_refused_before_it_writes(kind: str) -> None:
    client = getattr(boto3, kind)("dynamodb", region_name="us-east-1")
    if kind == "resource":
        client = client.Table("t")
    refused = "client must be a low-level async DynamoDB client, got .*aioboto3"
    with pytest.raises(TypeError, match=refused):
        DynamoDBAdapter(client, "table")
    with pytest.raises(TypeError, match=refused):
        await create_table(client, "t")


@pytest.mark.anyio
async def test_a_store_of_a_callers_client_is_ready_at_once_and_stays_so() -> None:
    client = FaultyClient()
    client.faults += [answer({})] * 3
    adapter = DynamoDBAdapter(client, "table")
    assert await adapter.get("k") is None
    async with adapter as entered:
        assert entered is adapter
        assert await adapter.get("k") is None
    assert await adapter.get("k") is None
    assert client.operations == ["get_item"] * 3


@pytest.mark.anyio
async def test_use_after_a_fork_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FaultyClient()
    adapter = DynamoDBAdapter(client, "table")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PersistenceError, match="is a fork; open a store of its own"):
        await adapter.get("k")
    assert client.calls == []


@pytest.mark.anyio
async def test_a_store_of_a_callers_client_belongs_to_the_event_loop_that_uses_it_first() -> None:
    client = FaultyClient()
    client.faults += [answer({})] * 2
    adapter = DynamoDBAdapter(client, "table")
    assert await adapter.get("k") is None
    with pytest.raises(PersistenceError, match=r"belongs to the event loop .* thread 'MainThread'"):
        await anyio.to_thread.run_sync(lambda: anyio.run(adapter.get, "k"))
    assert await adapter.get("k") is None


def test_trio_is_refused_on_entry() -> None:
    async def main() -> None:
        async with parse("dynamodb://table?region=us-east-1"):
            pass

    with pytest.raises(UnsupportedEventLoopError, match="asyncio"):
        anyio.run(main, backend="trio")


def test_without_aioboto3_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with parse("dynamodb://table?region=us-east-1"):
            pass

    monkeypatch.setitem(sys.modules, "aioboto3", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'gogoscope\[dynamodb\]'"):
        anyio.run(main)


def test_without_a_region_the_error_says_where_to_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with parse("dynamodb://table"):
            pass

    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(ConfigurationError, match="AWS_DEFAULT_REGION"):
        anyio.run(main)


def test_importing_the_package_imports_no_aws_sdk() -> None:
    check = (
        "import sys, gogoscope_dynamodb\n"
        "assert not {'aioboto3', 'aiobotocore', 'boto3', 'botocore'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"create": "false"},
        {"fast": "true"},
        {"consistent_reads": "no"},
        {"region": 5},
        {"clock": 5},
        {"endpoint_url": 5},
        {"codec": 5},
    ],
    ids=repr,
)
def test_an_argument_of_a_wrong_type_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(wrong))):
        DynamoDBAdapter(None, "table", **wrong)


OPENING = """
import sys, threading, anyio
from gogoscope import open_persistence

done_by = []

def note(event, arguments):
    name = str(arguments[0]) if arguments else ""
    sdk = event == "import" and name.partition(".")[0] in ("aioboto3", "aiobotocore", "botocore")
    if sdk or (event == "open" and "/botocore/data/" in name.replace(chr(92), "/")):
        done_by.append((threading.current_thread() is threading.main_thread(), name))

sys.addaudithook(note)

async def main():
    for _ in range(2):
        async with open_persistence("dynamodb://table?region=us-east-1"):
            done, done_by[:] = list(done_by), []
            print(len(done), [name for in_main, name in done if in_main])

anyio.run(main)
"""


def test_the_sdk_is_loaded_beside_the_event_loop_and_once() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", OPENING], check=True, capture_output=True, text=True, timeout=60
    )
    first, second = shown.stdout.splitlines()
    assert int(first.split()[0]) > 100
    assert first.split(maxsplit=1)[1] == "[]"
    assert second == "0 []"


@pytest.mark.anyio
async def test_a_store_that_is_closed_while_it_opens_leaves_no_client_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients: list[str] = []
    opening, go_on = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def open_client(*_: object, **__: object) -> AsyncIterator[FaultyClient]:
        clients.append("opened")
        opening.set()
        await go_on.wait()
        try:
            yield FaultyClient()
        finally:
            clients.append("closed")

    monkeypatch.setattr(adapter_module, "open_client", open_client)
    store = DynamoDBAdapter(None, "table")

    async def open_it() -> None:
        with pytest.raises(PersistenceError, match="closed while it was opened"):
            await store.__aenter__()

    async with anyio.create_task_group() as group:
        group.start_soon(open_it)
        await opening.wait()
        await store.aclose()
        go_on.set()
    assert clients == ["opened", "closed"]
    async with store:
        assert clients[2:] == ["opened"]
