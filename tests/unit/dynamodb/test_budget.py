"""What a request may take, and what may come out of it: a budget, doubt, and our own errors."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from gogoscope.exceptions import (
    PersistenceError,
    StoreConnectionError,
    StoreTimeoutError,
)
from gogoscope.testing import VirtualClock
from gogoscope_dynamodb import requests
from gogoscope_dynamodb.answers import Update
from gogoscope_dynamodb.requests import PATIENCE_IN_TIMEOUTS, Table
from tests.support.dynamodb_faults import (
    FaultyClient,
    Perform,
    answer,
    be_silent,
    client_error,
    lose_response,
    refuse,
)

pytestmark = pytest.mark.anyio

KEY = {"pk": {"S": "CACHE#key"}, "sk": {"S": "METADATA"}}
WRITE = Update("SET #data = :data", "#version = :seen")
VALUES = {":data": {"S": "x"}, ":seen": {"N": "1"}}


class PooledClient(FaultyClient):
    """A client that tells of three connections, of which two are for what is not urgent."""

    class meta:  # noqa: N801 - the SDK's name
        class config:  # noqa: N801 - likewise
            max_pool_connections = 3


@pytest.fixture
def client() -> FaultyClient:
    return PooledClient()


@pytest.fixture
def table(client: FaultyClient, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(requests, "FIRST_DELAY", 0.001)
    return Table("t", client, 0.05)


def an_answer(content: str, **parts: Any) -> Any:
    return answer({"ResponseMetadata": {"HTTPHeaders": {"content-type": content}}, **parts})


async def take_a_while(perform: Perform) -> Any:
    await anyio.sleep(0.04)
    return {}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_callers_of_a_silent_store_fail_within_one_budget(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
) -> None:
    ends: list[float] = []

    async def call() -> None:
        with pytest.raises(StoreTimeoutError):
            await table.put(KEY)
        ends.append(virtual_clock.elapsed())

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(400):
                group.start_soon(call)

    client.constant_faults["put_item"] = be_silent
    virtual_clock.run(main, backend=backend)
    assert len(ends) == 400
    assert max(ends) <= PATIENCE_IN_TIMEOUTS * table.timeout + 0.001


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_waiting_for_a_connection_costs_nothing_while_the_store_answers(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(table.put, KEY)
            await anyio.wait_all_tasks_blocked()
            await table.put(KEY)

    client.faults.extend([take_a_while] * 20 + [refuse("ThrottlingException"), answer({})])
    virtual_clock.run(main, backend=backend)
    assert virtual_clock.elapsed() > PATIENCE_IN_TIMEOUTS * table.timeout


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_waiting_for_a_connection_again_after_a_fault_costs_nothing_either(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(table.put, KEY)

    client.faults.extend([refuse("ThrottlingException"), *[take_a_while] * 20])
    virtual_clock.run(main, backend=backend)
    assert virtual_clock.elapsed() > PATIENCE_IN_TIMEOUTS * table.timeout


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_store_that_recovers_just_before_the_end_has_time_to_answer(
    client: FaultyClient,
    virtual_clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    backend: Literal["asyncio", "trio"],
) -> None:
    monkeypatch.setattr(requests, "backoff", lambda failed: 0.98)
    table = Table("t", client, 1.0)

    async def answer_slowly(perform: Perform) -> Any:
        await anyio.sleep(0.2)
        return {}

    client.faults.extend([refuse("ThrottlingException")] * 3 + [answer_slowly])
    virtual_clock.run(table.put, KEY, backend=backend)


async def test_a_cancelled_caller_leaves_its_place_to_the_next(
    client: FaultyClient, table: Table
) -> None:
    table.timeout = 60
    client.faults.extend([be_silent] * 2)
    client.constant_faults["put_item"] = answer({})
    async with anyio.create_task_group() as group:
        holders = [anyio.CancelScope() for _ in range(4)]

        async def put(limit: anyio.CancelScope) -> None:
            with limit:
                await table.put(KEY)

        for limit in holders:
            group.start_soon(put, limit)
            await anyio.wait_all_tasks_blocked()
        holders[2].cancel()
        holders[0].cancel()
        with anyio.fail_after(5):
            await table.put(KEY)
        holders[1].cancel()


@pytest.mark.parametrize(
    "refusal",
    [
        refuse("AccessDeniedException"),
        refuse("ResourceNotFoundException"),
        refuse("ValidationException"),
    ],
)
async def test_a_refusal_does_not_hide_that_an_earlier_try_may_have_been_applied(
    client: FaultyClient, table: Table, refusal: Any
) -> None:
    client.client = FaultyClient()
    client.client.faults.append(answer({}))
    client.faults += [lose_response, refusal]
    with pytest.raises(StoreTimeoutError):
        await table.put(KEY)


async def test_nothing_is_sent_after_the_store_was_closed(
    client: FaultyClient, table: Table
) -> None:
    async def lose_while_it_is_closed(perform: Perform) -> Any:
        table.opened(None)
        raise ConnectionResetError("lost")

    client.faults.append(lose_while_it_is_closed)
    with pytest.raises(PersistenceError):
        await table.put(KEY)
    assert client.operations == ["put_item"]


async def test_another_event_loop_is_refused_before_it_waits_with_those_of_this_one(
    client: FaultyClient, table: Table
) -> None:
    client.constant_faults["put_item"] = be_silent
    table.timeout = 10

    def elsewhere() -> None:
        with pytest.raises(PersistenceError, match="belongs to the event loop"):
            anyio.run(table.put, KEY)

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(table.put, KEY)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(elsewhere)
        group.cancel_scope.cancel()


async def test_another_event_loop_renews_no_credentials(client: FaultyClient, table: Table) -> None:
    credentials = give(table, client, Credentials(0.0))
    credentials.due = False
    await table.put(KEY)
    credentials.due = True

    def elsewhere() -> None:
        with pytest.raises(PersistenceError, match="belongs to the event loop"):
            anyio.run(table.put, KEY)

    await anyio.to_thread.run_sync(elsewhere)
    assert credentials.renewed == 0


async def test_a_look_at_the_keys_that_fails_does_not_hide_what_was_refused(
    client: FaultyClient, table: Table
) -> None:
    client.constant_faults["put_item"] = refuse("ValidationException", "the item is odd")
    client.constant_faults["describe_table"] = refuse("ThrottlingException", "Rate exceeded")
    with pytest.raises(PersistenceError, match="the item is odd"):
        await table.put(KEY)


async def test_too_many_requests_without_a_code_are_tried_again(
    client: FaultyClient, table: Table
) -> None:
    async def turn_away(perform: Perform) -> Any:
        raise client_error("429", status=429)

    client.faults += [turn_away, answer({})]
    assert (await table.put(KEY)).granted


@pytest.mark.parametrize(
    "fault",
    [
        an_answer("text/html"),
        an_answer("application/json", Attributes={}),
        an_answer("application/x-amz-json-1.0"),
        answer("<html>"),
        answer(None),
    ],
)
async def test_what_is_not_dynamodbs_answer_is_a_broken_connection(
    client: FaultyClient, table: Table, fault: Any
) -> None:
    client.constant_faults["update_item"] = client.constant_faults["scan"] = fault
    with pytest.raises(StoreTimeoutError):
        await table.update(KEY, WRITE, VALUES)
    with pytest.raises(StoreConnectionError):
        await table.send("scan", {})


async def test_an_empty_answer_that_does_not_say_what_it_is_is_a_broken_connection(
    client: FaultyClient, table: Table
) -> None:
    headers = {"content-length": "0"}
    fault = answer({"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": headers}})
    client.constant_faults["put_item"] = client.constant_faults["get_item"] = fault
    with pytest.raises(StoreTimeoutError, match="put_item was answered with ''"):
        await table.put(KEY)
    with pytest.raises(StoreConnectionError):
        await table.read(KEY, consistent=True)


async def test_an_update_is_granted_when_the_answer_is_dynamodbs(
    client: FaultyClient, table: Table
) -> None:
    client.faults.append(an_answer("application/x-amz-json-1.0", Attributes=KEY))
    assert (await table.update(KEY, WRITE, VALUES)).item == KEY


class Credentials:
    """Temporary credentials that are due, and what renewing them does."""

    def __init__(self, *renewals: Exception | float, good: bool = False) -> None:
        self.renewals = list(renewals)
        self.renewed = 0
        self.due = True
        self.good = good

    def refresh_needed(self, within: int | None = None) -> bool:
        return self.due and (within is None or not self.good)

    async def get_frozen_credentials(self) -> None:
        self.renewed += 1
        outcome = self.renewals.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        await anyio.sleep(outcome)
        self.due = False


class Signer:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials


def give(table: Table, client: FaultyClient, credentials: Credentials) -> Credentials:
    client._request_signer = Signer(credentials)  # type: ignore[attr-defined]
    client.constant_faults["put_item"] = answer({})
    table.opened(client)
    return credentials


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_renewing_credentials_takes_nothing_from_a_request_and_happens_once(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
) -> None:
    credentials = give(table, client, Credentials(3.0))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(table.put, KEY)

    virtual_clock.run(main, backend=backend)
    assert credentials.renewed == 1
    assert len(client.calls) == 20


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("outcome", [30.0, KeyError("AccessKeyId")], ids=repr)
def test_no_request_waits_for_a_renewal_while_the_credentials_at_hand_are_good(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    outcome: Exception | float,
    backend: Literal["asyncio", "trio"],
) -> None:
    credentials = give(table, client, Credentials(outcome, 0.0, good=True))

    async def main() -> None:
        began = anyio.current_time()
        for _ in range(2):
            await table.put(KEY)
        assert anyio.current_time() == began
        assert credentials.renewed
        await anyio.sleep(60)
        await table.put(KEY)
        assert not credentials.due
        await table.renewals.end()

    virtual_clock.run(main, backend=backend)
    assert len(client.calls) == 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_of_requests_that_come_together_none_waits_for_a_renewal_beside_them(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
) -> None:
    credentials = give(table, client, Credentials(30.0, good=True))

    async def main() -> None:
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(table.put, KEY)
        assert anyio.current_time() == began
        await anyio.sleep(60)
        assert not credentials.due

    virtual_clock.run(main, backend=backend)
    assert credentials.renewed == 1
    assert len(client.calls) == 20


async def test_the_end_of_a_store_ends_a_renewal(client: FaultyClient, table: Table) -> None:
    give(table, client, Credentials(1e9, good=True))
    await table.put(KEY)
    with anyio.CancelScope() as cancelled:
        cancelled.cancel()
        await table.renewals.end()
    assert not table.renewals._beside._running


async def test_a_failed_renewal_is_tried_again(client: FaultyClient, table: Table) -> None:
    credentials = give(
        table, client, Credentials(KeyError("AccessKeyId"), OSError("no route"), 0.0)
    )
    await table.put(KEY)
    assert credentials.renewed == 3


async def test_credentials_that_cannot_be_renewed_are_no_connection_and_nothing_is_sent(
    client: FaultyClient, table: Table
) -> None:
    own = KeyError("AccessKeyId")
    give(table, client, Credentials(*[own] * 1000))
    with pytest.raises(StoreConnectionError, match="AccessKeyId") as caught:
        await table.put(KEY)
    assert caught.value.__cause__ is not None
    assert not client.calls


async def test_a_caller_that_is_cancelled_while_it_renews_leaves_that_to_the_next(
    client: FaultyClient, table: Table
) -> None:
    credentials = give(table, client, Credentials(60.0, 0.0))
    async with anyio.create_task_group() as group:
        limit = anyio.CancelScope()

        async def put() -> None:
            with limit:
                await table.put(KEY)

        group.start_soon(put)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(table.put, KEY)
        await anyio.wait_all_tasks_blocked()
        limit.cancel()
    assert credentials.renewed == 2
    assert len(client.calls) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_callers_with_large_values_have_no_more_time_however_many_they_are(
    client: FaultyClient,
    table: Table,
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
) -> None:
    ends: list[float] = []

    async def call() -> None:
        with pytest.raises(StoreTimeoutError):
            await table.put(KEY, size=390_000)
        ends.append(virtual_clock.elapsed())

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(400):
                group.start_soon(call)

    client.constant_faults["put_item"] = be_silent
    virtual_clock.run(main, backend=backend)
    seconds = requests.MOST_COUNTED / requests.SLOWEST_LINK
    assert max(ends) <= PATIENCE_IN_TIMEOUTS * (table.timeout + seconds) + 0.001
