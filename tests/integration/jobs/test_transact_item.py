"""``job.transact_item``: a write on DynamoDB and the state of a job are one transaction."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import CapabilityNotSupportedError, LeaseLostError, RecordTooLargeError, scope
from gogoscope.persistence.lock_records import LockClaim
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from tests.support.clocks import MillisecondClock
from tests.support.dynamodb_faults import FaultyClient

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio", "atomic_dynamodb")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> MillisecondClock:
    return MillisecondClock()


@pytest.fixture
def store(
    faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock
) -> DynamoDBAdapter:
    return DynamoDBAdapter(faulty_client, dynamodb_table, clock=clock, request_timeout=5)


@pytest.fixture
def elsewhere(
    dynamodb_client: DynamoDBClient, dynamodb_table: str, clock: MillisecondClock
) -> DynamoDBAdapter:
    """The same store in another process."""
    return DynamoDBAdapter(dynamodb_client, dynamodb_table, clock=clock, request_timeout=5)


class Index:
    """What the caller writes itself: how many pages it has indexed."""

    def __init__(self, client: Any, table: str) -> None:
        self.client = client
        self.key = {"pk": {"S": "INDEX"}, "sk": {"S": "pages"}}
        self.table = table

    async def send(self, item: Any) -> None:
        write = {
            "Update": {
                "TableName": self.table,
                "Key": self.key,
                "UpdateExpression": "ADD pages :one",
                "ExpressionAttributeValues": {":one": {"N": "1"}},
            }
        }
        await self.client.transact_write_items(TransactItems=[write, item])

    async def refuses(self, item: Any) -> bool:
        with pytest.raises(self.client.exceptions.TransactionCanceledException) as caught:
            await self.send(item)
        reasons = [reason["Code"] for reason in caught.value.response["CancellationReasons"]]
        return reasons == ["None", "ConditionalCheckFailed"]

    async def pages(self) -> int:
        answer = await self.client.get_item(TableName=self.table, Key=self.key, ConsistentRead=True)
        return int(answer["Item"]["pages"]["N"]) if "Item" in answer else 0


@pytest.fixture
def index(dynamodb_client: DynamoDBClient, dynamodb_table: str) -> Index:
    return Index(dynamodb_client, dynamodb_table)


async def state_of(store: DynamoDBAdapter) -> Any:
    record = await store.read_job("index")
    assert record is not None
    return store.job_state("index", record.state)


async def renewed(store: DynamoDBAdapter) -> None:
    """Wait for the next renewal."""
    before = await store.read_job("index")
    with anyio.fail_after(60):
        while await store.read_job("index") == before:
            await anyio.sleep(0.05)


async def test_each_write_is_saved_with_the_state_that_says_so(
    store: DynamoDBAdapter, elsewhere: DynamoDBAdapter, index: Index
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(ValueError, match="broken"):
            async with s.job("index", {"after": 0}, lease=6) as job:
                for after in (1, 2):
                    await index.send(job.transact_item({"after": after}))
                    assert job.state == {"after": after}
                await renewed(store)
                await index.send(job.transact_item({"after": 3}))
                raise ValueError("broken")
    assert await index.pages() == 3
    async with scope(persistence=elsewhere) as t, t.job("index", wait=0) as again:
        assert again.state == {"after": 3}
        await again.save({"after": 4})
        await index.send(again.transact_item({"after": 5}))
        assert await state_of(store) == {"after": 5}


async def test_a_renewal_between_making_and_sending_is_not_undone(
    store: DynamoDBAdapter, index: Index, clock: MillisecondClock
) -> None:
    async with scope(persistence=store) as s, s.job("index", 0) as job:
        item = job.transact_item(1)
        before = await store.read_job("index")
        assert before is not None
        assert before.lease.nonce is not None
        clock.advance(5_000)
        lease = before.lease
        renewed = await store.renew_job("index", before.lease.nonce, lease.version, 30_000, 0)
        await index.send(item)
        after = await store.read_job("index")
        assert after is not None
        assert after.lease == renewed.record
        assert after.state == "1"
        await job.save(2)
    assert await state_of(store) == 2


async def test_a_transaction_lands_once(store: DynamoDBAdapter, index: Index) -> None:
    async with scope(persistence=store) as s, s.job("index", 0) as job:
        item = job.transact_item(1)
        await index.send(item)
        assert await index.refuses(item)
    assert await index.pages() == 1


@pytest.mark.parametrize("later", ["a save", "another transaction"])
async def test_a_transaction_that_lands_after_a_later_state_is_cancelled(
    store: DynamoDBAdapter, index: Index, later: str
) -> None:
    async with scope(persistence=store) as s, s.job("index", 0) as job:
        late = [job.transact_item(n) for n in (1, 2, 3)]
        if later == "a save":
            await job.save(9)
        else:
            await index.send(job.transact_item(9))
        for item in late:
            assert await index.refuses(item)
        await index.send(job.transact_item(10))
    assert await state_of(store) == 10


async def test_a_transaction_after_a_save_whose_answer_was_lost_lands(
    store: DynamoDBAdapter, faulty_client: FaultyClient, index: Index
) -> None:
    async def lost(perform: Any) -> Any:
        await perform()
        raise ConnectionError

    async with scope(persistence=store) as s, s.job("index", 0) as job:
        faulty_client.faults.append(lost)
        await job.save(1)
        await index.send(job.transact_item(2))
    assert await state_of(store) == 2


async def test_the_whole_transaction_of_a_zombie_is_cancelled(
    store: DynamoDBAdapter, elsewhere: DynamoDBAdapter, clock: MillisecondClock, index: Index
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.job("index", 0) as job:
                item = job.transact_item(1)
                clock.advance(3_600_000)
                claim = LockClaim(nonce="next", owner="next", lease_ms=30_000)
                assert (await elsewhere.claim_job("index", claim, 1)).granted
                assert await index.refuses(item)
    assert await index.pages() == 0


async def test_a_transaction_that_lands_after_the_job_has_finished_is_cancelled(
    store: DynamoDBAdapter, index: Index
) -> None:
    async with scope(persistence=store) as s, s.job("index", 0) as job:
        item = job.transact_item(1)
    assert await index.refuses(item)
    assert (await store.jobs())["index"].state == "finished"


async def test_what_cannot_be_saved_is_refused_before_anything_is_sent(
    store: DynamoDBAdapter, index: Index
) -> None:
    async with scope(persistence=store) as s, s.job("index", 0) as job:
        with pytest.raises(TypeError, match="tuple"):
            job.transact_item((1, 2))
        with pytest.raises(RecordTooLargeError):
            job.transact_item("x" * 409_000)
        with pytest.raises(CapabilityNotSupportedError, match="save"):
            await job.save(1, connection=object())
        await index.send(job.transact_item(1))
    assert await state_of(store) == 1
