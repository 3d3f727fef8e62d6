"""A DynamoDB store under throttling, on a caller's client, and on several event loops at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import open_persistence, scope
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.requests import NO_ITEM
from tests.support.dynamodb_faults import FaultyClient, Perform, client_error

pytestmark = pytest.mark.anyio

OPERATIONS = (
    *("get_item", "put_item", "update_item", "delete_item"),
    *("scan", "batch_get_item", "batch_write_item"),
)
MOST_PER_BATCH = 10


class ThrottlingClient(FaultyClient):
    """Refuses every request twice before it carries it out, and of a batch only a part."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.refusals: Counter[str] = Counter()
        for operation in OPERATIONS:
            self.constant_faults[operation] = self.throttle

    async def throttle(self, perform: Perform) -> Any:
        operation, parameters = self.calls[-1]
        request = f"{operation} {parameters}"
        if self.refusals[request] < 2:
            self.refusals[request] += 1
            raise client_error("ProvisionedThroughputExceededException")
        self.refusals[request] = 0
        if operation != "batch_write_item":
            return await perform()
        ((table, requests),) = parameters["RequestItems"].items()
        done, left = requests[:MOST_PER_BATCH], requests[MOST_PER_BATCH:]
        await self.client.batch_write_item(RequestItems={table: done})
        return {"UnprocessedItems": {table: left} if left else {}}


@pytest.fixture
def throttled_store(dynamodb_client: Any, dynamodb_table: str) -> DynamoDBAdapter:
    client = ThrottlingClient(dynamodb_client)
    return DynamoDBAdapter(client, dynamodb_table, consistent_reads=True, request_timeout=5)


@pytest.mark.usefixtures("atomic_dynamodb")
async def test_throttling_under_load_is_waited_out_and_loses_nothing(
    throttled_store: DynamoDBAdapter,
) -> None:
    store = throttled_store
    tokens: list[int] = []

    async def work(number: int) -> None:
        for _ in range(3):
            await store.record_failure(f"c{number % 3}", 10**9)
        await store.set(f"k{number}", number)
        assert await store.get(f"k{number}") == number
        handle = await store.acquire(f"lock{number}", 60)
        assert handle is not None
        tokens.append(handle.fencing_token)
        assert await handle.release() is True

    async with anyio.create_task_group() as group:
        for number in range(18):
            group.start_soon(work, number)
    states = [await store.get_state(f"c{number}") for number in range(3)]
    assert [state and state.failure_count for state in states] == [18, 18, 18]
    assert len(tokens) == 18


@pytest.mark.usefixtures("atomic_dynamodb")
async def test_many_values_are_written_and_read_though_the_table_is_throttled(
    throttled_store: DynamoDBAdapter,
) -> None:
    values = {f"item:{number}": number for number in range(130)}
    await throttled_store.set_many(values)
    assert await throttled_store.get_many(values) == values
    await throttled_store.delete_many([f"item:{number}" for number in range(60)])
    assert len(await throttled_store.keys()) == 70
    await throttled_store.clear()
    assert await throttled_store.keys() == []


READS: dict[str, tuple[Callable[[DynamoDBAdapter], Awaitable[object]], bool]] = {
    "get": (lambda store: store.get("k"), False),
    "get_entry": (lambda store: store.get_entry("k"), False),
    "get_entry, latest": (lambda store: store.get_entry("k", latest=True), True),
    "get_many": (lambda store: store.get_many(["k", "l"]), False),
    "has": (lambda store: store.has("k"), False),
    "keys": (lambda store: store.keys(), False),
    "iterate_keys": (lambda store: anext(store.iterate_keys(), None), False),
    "clear": (lambda store: store.clear(), True),
    "read_lock": (lambda store: store.read_lock("k"), True),
    "holder": (lambda store: store.holder("k"), True),
    "get_state": (lambda store: store.get_state("k"), True),
    "circuits": (lambda store: store.circuits(), True),
}


@pytest.mark.parametrize("name", READS)
async def test_each_method_reads_as_consistently_as_the_adapter_says(
    faulty_client: FaultyClient, dynamodb_table: str, name: str
) -> None:
    read, consistent = READS[name]
    for always in (False, True):
        faulty_client.calls.clear()
        await read(DynamoDBAdapter(faulty_client, dynamodb_table, consistent_reads=always))
        flags = set()
        for _, parameters in faulty_client.calls:
            if parameters.get("Key") == NO_ITEM:
                continue  # asks for the table's keys, whatever the table holds
            for part in parameters.get("RequestItems", {"": parameters}).values():
                flags.add(part["ConsistentRead"])
        assert flags == {consistent or always}


class Unclosable(FaultyClient):
    """A client that does not allow anybody to close it."""

    async def close(self) -> None:
        pytest.fail("somebody closed the caller's client")

    async def __aenter__(self) -> Any:
        pytest.fail("somebody entered the caller's client")

    async def __aexit__(self, *_: object) -> None:
        pytest.fail("somebody closed the caller's client")


async def test_a_callers_client_outlives_stores_scopes_errors_and_cancellation(
    dynamodb_client: Any, dynamodb_table: str
) -> None:
    client = Unclosable(dynamodb_client)
    store = DynamoDBAdapter(client, dynamodb_table)
    for _ in range(2):
        async with scope(persistence=store) as s:
            await s.cache.set("k", 1)
    with pytest.raises(ZeroDivisionError):
        async with store, scope(persistence=store):
            raise ZeroDivisionError
    with anyio.CancelScope() as cancelled:
        async with store:
            cancelled.cancel()
            await anyio.sleep_forever()
    async with DynamoDBAdapter(client, dynamodb_table) as another:
        assert await another.get_entry("k", latest=True) is not None
    assert await store.get_entry("k", latest=True) is not None


def test_event_loops_of_several_threads_each_have_their_own_client(
    dynamodb_engine: Any, dynamodb_tables: Any, atomic_dynamodb: Any
) -> None:
    from tests.support.engines import new_table_name

    name = new_table_name()
    dynamodb_tables.create(name)
    url = f"dynamodb://{name}?endpoint_url={dynamodb_engine.endpoint_url}"
    threads_count, times = 4, 20
    barrier = threading.Barrier(threads_count, timeout=60)
    counts: list[int] = []
    clients: list[object] = []
    errors: list[BaseException] = []

    async def fail(store: DynamoDBAdapter) -> None:
        counts.append(await store.record_failure("c", 10**9))

    async def main() -> None:
        async with open_persistence(url) as store:
            assert isinstance(store, DynamoDBAdapter)
            clients.append(store._table.client)
            barrier.wait()
            async with anyio.create_task_group() as group:
                for _ in range(times):
                    group.start_soon(fail, store)
            barrier.wait()

    def run() -> None:
        try:
            anyio.run(main)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({id(client) for client in clients}) == threads_count
    assert sorted(counts) == list(range(1, threads_count * times + 1))
    dynamodb_tables.drop(name)
