"""``run.transact_item``: a caller's write on DynamoDB and the end of a run are one transaction."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import LeaseLostError, Once, RecordTooLargeError, RunError, Scope, scope
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


class Ledger:
    """What the caller writes itself: an amount that each transaction adds 10 to."""

    def __init__(self, client: Any, table: str) -> None:
        self.client = client
        self.table = table
        self.key = {"pk": {"S": "LEDGER"}, "sk": {"S": "balance"}}

    def write(self) -> Any:
        return {
            "Update": {
                "TableName": self.table,
                "Key": self.key,
                "UpdateExpression": "ADD amount :ten",
                "ExpressionAttributeValues": {":ten": {"N": "10"}},
            }
        }

    async def send(self, item: Any, **options: Any) -> None:
        items = [self.write(), item]
        await self.client.transact_write_items(TransactItems=items, **options)

    async def refused(self, item: Any) -> list[str]:
        """Send a transaction that is to be refused; return the codes of its reasons."""
        with pytest.raises(self.client.exceptions.TransactionCanceledException) as caught:
            await self.send(item)
        return [reason["Code"] for reason in caught.value.response["CancellationReasons"]]

    async def amount(self) -> int:
        answer = await self.client.get_item(TableName=self.table, Key=self.key, ConsistentRead=True)
        return int(answer["Item"]["amount"]["N"]) if "Item" in answer else 0


@pytest.fixture
def ledger(dynamodb_client: DynamoDBClient, dynamodb_table: str) -> Ledger:
    return Ledger(dynamodb_client, dynamodb_table)


REFUSED = ["None", "ConditionalCheckFailed"]


async def kept(store: DynamoDBAdapter, key: str = "charge") -> Any:
    """Return the result that another caller gets; fail if it would run."""

    async def runs() -> None:
        pytest.fail("it runs once more")

    async with scope(persistence=store) as s:
        return await s.call(runs, once=Once(key, 60))


async def test_the_callers_write_and_the_completion_happen_both(
    store: DynamoDBAdapter, elsewhere: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        await ledger.send(run.transact_item({"receipt": [7, "\u00e9"]}))
        assert run.result == {"receipt": [7, "\u00e9"]}
    assert await ledger.amount() == 10
    assert await kept(elsewhere) == {"receipt": [7, "\u00e9"]}
    assert await kept(store) == {"receipt": [7, "\u00e9"]}
    assert (await elsewhere.runs())["charge"].state == "done"


async def test_neither_happens_if_the_callers_condition_fails(
    store: DynamoDBAdapter, elsewhere: DynamoDBAdapter, ledger: Ledger
) -> None:
    refusal = ledger.write()
    refusal["Update"]["ConditionExpression"] = "attribute_exists(pk)"
    canceled = ledger.client.exceptions.TransactionCanceledException
    async with scope(persistence=store) as s:
        with pytest.raises(canceled):
            async with s.claim("charge", 60) as run:
                items = [refusal, run.transact_item("receipt")]
                await ledger.client.transact_write_items(TransactItems=items)
    assert await ledger.amount() == 0
    async with scope(persistence=elsewhere) as t, t.claim("charge", 60, wait=0) as again:
        assert not again.done
        again.complete("second")


async def test_a_renewal_between_making_and_sending_does_no_harm(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        item = run.transact_item("receipt")
        before = await store.read_run("charge")
        assert before is not None
        lease = before.lease
        assert lease.nonce is not None
        renewed = await store.renew_run("charge", lease.nonce, lease.version, 30_000, 0)
        assert renewed.granted
        await ledger.send(item)
    assert await ledger.amount() == 10
    assert await kept(store) == "receipt"


async def test_a_renewal_that_lands_after_the_transaction_changes_nothing(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        before = await store.read_run("charge")
        await ledger.send(run.transact_item("receipt"))
        assert before is not None
        assert before.lease.nonce is not None
        late = await store.renew_run("charge", before.lease.nonce, before.lease.version, 30_000, 0)
        assert not late.granted
    assert await kept(store) == "receipt"


async def test_a_renewal_that_is_refused_since_the_run_is_done_does_not_cancel_it(
    store: DynamoDBAdapter, faulty_client: FaultyClient, ledger: Ledger
) -> None:
    landing, may_land = anyio.Event(), anyio.Event()

    async def late(perform: Any) -> Any:
        landing.set()
        await may_land.wait()
        return await perform()

    async with scope(persistence=store) as s, s.claim("charge", 60, lease=6) as run:
        faulty_client.faults.append(late)
        with anyio.fail_after(60):
            await landing.wait()  # the renewal is on its way
            await ledger.send(run.transact_item("receipt"))
            may_land.set()
            while "get_item" not in faulty_client.operations:  # it asks whether the run is done
                await anyio.sleep(0.01)
    assert run.result == "receipt"
    assert await kept(store) == "receipt"


async def test_making_it_ends_the_renewals(
    store: DynamoDBAdapter, faulty_client: FaultyClient, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60, lease=3) as run:
        item = run.transact_item("receipt")
        faulty_client.calls.clear()
        await ledger.send(item)
        with anyio.fail_after(60):
            while not faulty_client.calls:  # at the end of its lease it asks whether it is done
                await anyio.sleep(0.01)
    assert faulty_client.operations == ["get_item", "get_item"]
    assert await kept(store) == "receipt"


async def test_sending_it_again_after_a_lost_answer_is_free(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        item = run.transact_item("receipt")
        for _ in range(2):  # the first answer was lost
            await ledger.send(item, ClientRequestToken="of-this-charge")
    assert await ledger.amount() == 10
    assert await kept(store) == "receipt"


async def test_sending_it_again_as_another_transaction_changes_nothing_and_all_is_well(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        await ledger.send(run.transact_item("first"))
        assert await ledger.refused(run.transact_item("second")) == REFUSED
    assert run.result == "first"
    assert await ledger.amount() == 10
    assert await kept(store) == "first"


async def test_after_a_lost_answer_that_leaves_the_block_the_run_is_done_all_the_same(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(ConnectionError):
            async with s.claim("charge", 60) as run:
                await ledger.send(run.transact_item("receipt"))
                raise ConnectionError("the answer was lost")
    assert await ledger.amount() == 10
    assert await kept(store) == "receipt"


async def test_the_whole_transaction_of_a_zombie_is_cancelled(
    store: DynamoDBAdapter, elsewhere: DynamoDBAdapter, clock: MillisecondClock, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.claim("charge", 60) as run:
                item = run.transact_item("of the zombie")
                clock.advance(3_600 * 1000)
                claim = LockClaim(nonce="next", owner="next", lease_ms=30_000)
                assert (await elsewhere.claim_run("charge", claim)).granted
                assert await ledger.refused(item) == REFUSED
                receipt = elsewhere.run_outcome("of its successor")
                assert await elsewhere.complete_run("charge", "next", "done", receipt, 60)
                assert await ledger.refused(item) == REFUSED
    assert await ledger.amount() == 0
    assert await kept(elsewhere) == "of its successor"


async def test_the_transaction_of_a_run_whose_outcome_is_unknown_is_cancelled(
    store: DynamoDBAdapter, elsewhere: DynamoDBAdapter, clock: MillisecondClock, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.claim("charge", 60, after_crash="ask") as run:
                item = run.transact_item("of the zombie")
                clock.advance(3_600 * 1000)
                claim = LockClaim(nonce="next", owner="next", lease_ms=30_000)
                reply = await elsewhere.claim_run("charge", claim)
                assert reply.record.state == "unknown"
                assert await ledger.refused(item) == REFUSED
    assert await ledger.amount() == 0


async def test_a_lease_that_is_nearly_over_makes_none(
    store: DynamoDBAdapter, faulty_client: FaultyClient, ledger: Ledger
) -> None:
    async def down(perform: Any) -> Any:
        raise ConnectionError

    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.claim("charge", 60, lease=3) as run:
                faulty_client.constant_faults["put_item"] = down
                await anyio.sleep(2.2)
                run.transact_item("receipt")
                pytest.fail("it was made")
    assert await ledger.amount() == 0


async def test_an_exception_after_making_it_lets_nothing_of_it_happen(
    store: DynamoDBAdapter, elsewhere: DynamoDBAdapter, ledger: Ledger
) -> None:
    items = []
    async with scope(persistence=store) as s:
        with pytest.raises(ValueError, match="broken"):
            async with s.claim("charge", 60) as run:
                items.append(run.transact_item("receipt"))
                raise ValueError("broken")
    assert await ledger.refused(items[0]) == REFUSED
    async with scope(persistence=elsewhere) as t, t.claim("charge", 60, wait=0) as again:
        assert not again.done
        again.complete("second")
    assert await ledger.refused(items[0]) == REFUSED
    assert await ledger.amount() == 0


async def test_a_transaction_that_was_never_sent_is_an_error_and_never_happens(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    items = []
    async with scope(persistence=store) as s:
        with pytest.raises(RunError, match="was not committed; the next caller runs"):
            async with s.claim("charge", 60) as run:
                items.append(run.transact_item("receipt"))
        async with s.claim("charge", 60, wait=0) as again:
            assert not again.done
            assert await ledger.refused(items[0]) == REFUSED
            await ledger.send(again.transact_item("second"))
    assert await ledger.amount() == 10
    assert await kept(store) == "second"


async def test_a_lease_that_ends_while_the_transaction_is_never_sent_cancels_the_block(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.claim("charge", 60, lease=0.5) as run:
                run.transact_item("receipt")
                with anyio.fail_after(20):
                    await anyio.sleep_forever()


async def test_what_cannot_be_kept_is_refused_before_anything_is_sent(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        with pytest.raises(TypeError, match="tuple"):
            run.transact_item((1, 2))
        with pytest.raises(RecordTooLargeError):
            run.transact_item("x" * 409_000)
        run.complete("plain")
    assert await kept(store) == "plain"


async def test_only_the_transaction_completes_a_run_that_has_one(
    store: DynamoDBAdapter, ledger: Ledger
) -> None:
    async with scope(persistence=store) as s:
        async with s.claim("charge", 60) as run:
            run.complete("before")
            await ledger.send(run.transact_item("receipt"))
            with pytest.raises(RunError, match="a transaction completes it"):
                run.complete("after")
        async with s.claim("charge", 60) as again:
            assert again.result == "receipt"
            with pytest.raises(RunError, match="done before"):
                again.transact_item("once more")


async def test_the_result_is_forgotten_after_its_time(
    store: DynamoDBAdapter, clock: MillisecondClock, ledger: Ledger
) -> None:
    async def again(s: Scope) -> bool:
        async with s.claim("charge", None) as run:
            if not run.done:
                await ledger.send(run.transact_item("receipt"))
            return run.done

    async with scope(persistence=store) as s:
        async with s.claim("charge", 60) as run:
            await ledger.send(run.transact_item("receipt"))
        clock.advance(59 * 1000)
        assert await again(s)
        clock.advance(2 * 1000)
        assert not await again(s)
        clock.advance(100 * 365 * 86_400 * 1000)
        assert await again(s)
    assert await ledger.amount() == 20


async def test_a_run_of_a_version_that_left_no_marks_is_read_and_completed(
    store: DynamoDBAdapter, dynamodb_client: DynamoDBClient, dynamodb_table: str, ledger: Ledger
) -> None:
    async def without_marks() -> None:
        key = {"pk": {"S": "RUN#charge"}, "sk": {"S": "METADATA"}}
        item: Any = (await dynamodb_client.get_item(TableName=dynamodb_table, Key=key))["Item"]
        for name in ("nonce", "status", "seq"):
            item["data"]["M"].pop(name, None)
        await dynamodb_client.put_item(TableName=dynamodb_table, Item=item)

    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        await without_marks()
        assert (await store.runs())["charge"].state == "running"
        run.complete("receipt")
    await without_marks()
    assert await kept(store) == "receipt"
