"""Servers that are silent, throttling or away, and callers that are cancelled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aioboto3  # type: ignore[import-untyped] # it ships no types
import anyio
import psutil
import pytest
from anyio.abc import TaskGroup

from gogoscope.exceptions import StoreConnectionError, StoreTimeoutError, ThrottledError
from gogoscope.persistence import CircuitBreakerState, FailureReport
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import open_client
from tests.support.dynamodb_faults import (
    FaultyClient,
    LossyProxy,
    be_silent,
    be_unreachable,
    fine,
    lose_request,
    lose_response,
    refuse,
)
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(faulty_client: FaultyClient, dynamodb_table: str) -> DynamoDBAdapter:
    """A store that waits 0.3 s for an answer."""
    return DynamoDBAdapter(faulty_client, dynamodb_table, request_timeout=1)


@pytest.fixture
def other(faulty_client: FaultyClient, dynamodb_table: str) -> DynamoDBAdapter:
    """A store of another process."""
    return DynamoDBAdapter(faulty_client.client, dynamodb_table, request_timeout=5)


def report(count: int = 1, threshold: int = 3, **more: Any) -> FailureReport:
    values: dict[str, Any] = {"reporter": "me", "open_ms": 1, **more}
    return FailureReport(count=count, threshold=threshold, **values)


async def test_failures_of_others_between_the_tries_are_kept(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    async def lose_response_meanwhile(perform: Any) -> None:
        await perform()
        await other.count_failures("c", report(2, threshold=100, reporter="it"))
        raise ConnectionResetError

    await store.count_failures("c", report(threshold=100))
    faulty_client.faults.append(lose_response_meanwhile)
    assert (await store.count_failures("c", report(threshold=100))).failure_count == 4


async def test_a_callers_client_may_retry_by_itself(
    dynamodb_engine: Engine, dynamodb_table: str, on_asyncio: None
) -> None:
    """Then the echo of a write is recognised by the number of tries that the client tells."""
    if dynamodb_engine.endpoint_url.startswith("https"):
        pytest.skip("the proxy does not speak TLS")
    proxy = LossyProxy(dynamodb_engine.endpoint_url)
    session: Any = aioboto3.Session()
    async with proxy.running(), session.client("dynamodb", endpoint_url=proxy.url) as client:
        store = DynamoDBAdapter(client, dynamodb_table, request_timeout=10)
        await store.record_failure("c", 10)
        proxy.drops = 1
        assert await store.record_failure("c", 10) == 2
        handle = await store.acquire("k", 60)
        assert handle is not None
        proxy.drops = 1
        assert await handle.release() is True
        assert proxy.drops == 0


async def test_a_refused_connection_is_a_connection_error_and_leaves_no_claim(
    dynamodb_table: str, on_asyncio: None
) -> None:
    with socket.socket() as taken:  # which nobody else can listen on, and this one does not
        taken.bind(("127.0.0.1", 0))
        async with open_client(endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}") as client:
            store = DynamoDBAdapter(client, dynamodb_table, request_timeout=1)
            for call in (lambda: store.acquire("k", 60), lambda: store.get("k")):
                with pytest.raises(StoreConnectionError) as caught:
                    await call()
                assert caught.value.__cause__ is not None


async def test_throttling_is_retried_and_then_raised(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    throttled = refuse("ProvisionedThroughputExceededException")
    faulty_client.faults += [throttled, throttled]
    assert await store.acquire("k", 60) is not None
    assert len(faulty_client.calls) == 3
    faulty_client.constant_faults["put_item"] = throttled
    with pytest.raises(ThrottledError):
        await store.set("k", 1)


async def test_failures_that_wait_behind_a_silent_server_fail_together(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.record_failure("c", 100)
    store._table.timeout = 0.1
    faulty_client.constant_faults["update_item"] = be_silent
    errors: list[StoreTimeoutError] = []

    async def fail() -> None:
        with pytest.raises(StoreTimeoutError) as caught:
            await store.record_failure("c", 100)
        errors.append(caught.value)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(fail)
    assert len(errors) == 50


Operation = Callable[[DynamoDBAdapter], Awaitable[Any]]

OPERATIONS: dict[str, Operation] = {
    "acquire": lambda store: store.acquire("k", 60),
    "extend": lambda store: store.extend("held", 60, "holder"),
    "force_release": lambda store: store.force_release("forced"),
    "holder": lambda store: store.holder("held"),
    "record_failure": lambda store: store.record_failure("c", 2),
    "count_failures": lambda store: store.count_failures("c2", report()),
    "claim_probe": lambda store: store.claim_probe("open", "me", 60_000, 1),
    "get": lambda store: store.get("x"),
    "set": lambda store: store.set("x", 1),
    "delete": lambda store: store.delete("x"),
    "keys": lambda store: store.keys(),
    "clear": lambda store: store.clear(),
}


async def cancel_after_steps(
    tasks: TaskGroup, steps: int, operation: Callable[[], Awaitable[Any]]
) -> bool:
    """Start an operation and cancel it at the await where so many turns of the loop leave it.

    Tells whether it was cancelled, and had not ended before.
    """
    done, scope = anyio.Event(), anyio.CancelScope()

    async def run() -> None:
        with scope:
            await operation()
        done.set()

    tasks.start_soon(run)
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    if steps >= 30:
        await anyio.sleep((steps - 30) / 4000)
    scope.cancel()
    await done.wait()
    return scope.cancelled_caught


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelling_at_any_await_leaves_no_task_no_connection_and_no_lock(
    atomic_dynamodb: Engine, dynamodb_table: str, other: DynamoDBAdapter, name: str
) -> None:
    """Cancelled at each turn of the event loop before the answer, and in steps of 0.25 ms after."""
    await other.acquire("held", 600, owner="holder")
    await other.set_state("open", CircuitBreakerState(state="open"))
    before = asyncio.all_tasks()
    outcomes: set[bool] = set()
    connections = len(psutil.Process().net_connections())
    async with open_client(endpoint_url=atomic_dynamodb.endpoint_url) as client:
        store = DynamoDBAdapter(client, dynamodb_table, request_timeout=5)
        await store.has("warm-up")
        async with anyio.create_task_group() as tasks:
            for steps in range(60):
                cancelled = await cancel_after_steps(tasks, steps, lambda: OPERATIONS[name](store))
                outcomes.add(cancelled)
                if name == "acquire":
                    successor = await other.acquire("k", 60)
                    assert (successor is not None) == cancelled
                    await other.force_release("k")
    assert True in outcomes
    assert asyncio.all_tasks() == before
    assert len(psutil.Process().net_connections()) == connections


async def test_a_claim_that_is_cancelled_after_it_was_granted_is_taken_back(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    granted = anyio.Event()

    async def grant_and_hang(perform: Any) -> None:
        await perform()
        granted.set()
        await anyio.sleep_forever()

    faulty_client.faults.append(grant_and_hang)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.acquire, "k", 60)
        await granted.wait()
        tasks.cancel_scope.cancel()
    assert await other.acquire("k", 60) is not None


class LateRequest:
    """Keeps a request back until the test performs it."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.perform: Any = None

    async def delay(self, perform: Any) -> None:
        self.perform = perform
        self.asked.set()
        await anyio.sleep_forever()


async def test_a_claim_that_was_cancelled_before_it_arrived_is_refused_when_it_does(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    late = LateRequest()
    faulty_client.faults.append(late.delay)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.acquire, "k", 60)
        await late.asked.wait()
        tasks.cancel_scope.cancel()
    with pytest.raises(Exception, match="conditional"):
        await late.perform()
    assert await other.acquire("k", 60) is not None


async def test_a_cancelled_claim_that_arrives_while_it_is_taken_back_is_taken_back(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    late = LateRequest()

    async def arrive_first(perform: Any) -> Any:
        await late.perform()
        return await perform()

    faulty_client.faults += [late.delay, fine, arrive_first]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.acquire, "k", 60)
        await late.asked.wait()
        tasks.cancel_scope.cancel()
    assert not faulty_client.faults
    assert await other.acquire("k", 60) is not None


async def test_a_claim_without_any_answer_is_taken_back(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    faulty_client.faults += [lose_response] + [lose_request] * 5
    with pytest.raises(StoreTimeoutError):
        await store.acquire("k", 60)
    assert await other.acquire("k", 60) is not None


async def test_unreachable_then_reachable_is_no_error(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    faulty_client.faults += [be_unreachable, be_unreachable]
    assert await store.acquire("k", 60) is not None
