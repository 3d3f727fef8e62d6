"""Locks in a table: what is stored, what a reply means, and what each method costs."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence import LockClaim, LockHandle
from gogoscope.testing.conformance import ManualClock
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.dynamodb_faults import FaultyClient
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio

DAY = 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(faulty_client: FaultyClient, dynamodb_table: str, clock: ManualClock) -> DynamoDBAdapter:
    return DynamoDBAdapter(
        faulty_client, dynamodb_table, clock=clock, max_clock_skew=0.05, request_timeout=5
    )


async def raw_item(store: DynamoDBAdapter, key: str) -> dict[str, Any] | None:
    return await store._table.read(store._key("LOCK#", key), consistent=True)


async def put_raw(store: DynamoDBAdapter, key: str, **attributes: Any) -> None:
    await store._table.put(store._key("LOCK#", key) | attributes)


def claim(nonce: str, lease_ms: int = 5000) -> LockClaim:
    return LockClaim(nonce=nonce, owner=nonce, lease_ms=lease_ms)


async def take(store: DynamoDBAdapter, key: str = "k", ttl: float = 5) -> LockHandle:
    handle = await store.acquire(key, ttl)
    assert handle is not None
    return handle


async def test_each_method_is_one_request(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    handle = await take(store)
    assert faulty_client.operations == ["update_item"]
    calls: list[tuple[str, Any]] = [
        ("update_item", lambda: store.acquire("k", 5)),
        ("update_item", lambda: handle.extend()),
        ("update_item", lambda: store.extend("k", 5, handle.owner)),
        ("get_item", lambda: store.holder("k")),
        ("get_item", lambda: handle.is_valid()),
    ]
    for expected, call in calls:
        faulty_client.calls.clear()
        await call()
        assert faulty_client.operations == [expected]
    await handle.extend()
    faulty_client.calls.clear()
    assert await handle.release()
    assert faulty_client.operations == ["update_item"]
    await take(store)
    faulty_client.calls.clear()
    assert await store.force_release("k")
    assert faulty_client.operations == ["update_item"]


async def test_the_item_is_as_the_schema_says(store: DynamoDBAdapter) -> None:
    handle = await take(store, ttl=4.2345)
    item = await raw_item(store, "k")
    assert item is not None
    data = item.pop("data")["M"]
    assert item == {
        "pk": {"S": "LOCK#k"},
        "sk": {"S": "METADATA"},
        "owner": {"S": handle.owner},
        "version": {"N": "1800000000000001"},
        "stamp": {"N": "1800000000000000"},
        "expiresAt": {"N": str(1_800_000_005 + DAY)},
    }
    assert data.pop("meta")["M"].keys() == {"host", "pid"}
    assert data == {
        "nonce": {"S": handle.owner},
        "leaseMs": {"N": "4235"},
        "leaseUntil": {"N": "1800000004235"},
        "acquiredAt": {"N": "1800000000000"},
        "renewals": {"N": "0"},
    }


async def test_a_released_lock_keeps_its_version_and_lasts_a_day(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    handle = await take(store)
    clock.now += 1
    assert await handle.release()
    item = await raw_item(store, "k")
    assert item is not None
    assert "owner" not in item
    assert item["version"] == {"N": str(handle.fencing_token)}
    assert item["expiresAt"] == {"N": str(1_800_000_001 + DAY)}
    assert item["data"]["M"] == {"releasedBy": {"S": handle.owner}, "renewals": {"N": "0"}}


async def test_fencing_tokens_only_grow_however_a_lock_changes_hands(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    tokens = []
    for step in range(12):
        handle = await take(store)
        tokens.append(handle.fencing_token)
        if step % 2:
            await handle.extend()
        if step % 3 == 0:
            assert await handle.release()
        elif step % 3 == 1:
            assert await store.force_release("k")
        else:
            clock.now += 6
        clock.now -= 0.5  # A clock that steps back does not take the tokens with it.
    assert tokens == sorted(set(tokens))


async def test_any_reader_can_tell_the_fencing_token_after_renewals(
    store: DynamoDBAdapter,
) -> None:
    handle = await take(store)
    assert await handle.extend()
    assert await store.extend("k", 7, handle.owner)
    assert await handle.extend()
    record, holder = await store.read_lock("k"), await store.holder("k")
    assert record is not None
    assert holder is not None
    assert record.version == handle.fencing_token + 3
    assert record.fencing_token == holder.fencing_token == handle.fencing_token
    reply = await store.claim_lock("k", claim("other"))
    assert reply.record is not None
    assert reply.record.fencing_token == handle.fencing_token


async def test_a_lease_is_taken_over_after_its_time_and_never_before(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    start = clock.now
    for left in (4.5, 2.25, 0.001, 0, -0.049, -0.05):
        clock.now = start
        await store.force_release("k")
        await take(store, ttl=4.5)
        clock.now = start + 4.5 - left
        assert await store.acquire("k", 5) is None, left
    clock.now = start + 4.5 + 0.052
    assert await store.acquire("k", 5) is not None


async def test_a_claim_that_holds_the_lock_is_granted_again_with_the_same_token(
    store: DynamoDBAdapter,
) -> None:
    first = await store.claim_lock("k", claim("me"))
    again = await store.claim_lock("k", claim("me"))
    assert first.granted
    assert again == first


async def test_a_late_copy_of_a_released_claim_is_refused(store: DynamoDBAdapter) -> None:
    await store.claim_lock("k", claim("me"))
    assert await store.release_lock("k", "me", in_time=True)
    assert not (await store.claim_lock("k", claim("me"))).granted
    assert (await store.claim_lock("k", claim("other"))).granted


@pytest.mark.parametrize("before", ["nothing", "a released lock"])
async def test_a_claim_that_arrives_after_its_release_is_refused(
    store: DynamoDBAdapter, before: str
) -> None:
    token = 0
    if before == "a released lock":
        handle = await take(store)
        token = handle.fencing_token
        await handle.release()
    assert not await store.release_lock("k", "me", in_time=True)
    assert not (await store.claim_lock("k", claim("me"))).granted
    assert (await take(store)).fencing_token > token


async def test_releasing_a_lost_lock_returns_false_and_leaves_the_new_holder_alone(
    store: DynamoDBAdapter, clock: ManualClock, faulty_client: FaultyClient
) -> None:
    lost = await take(store)
    clock.now += 6
    successor = await take(store)
    faulty_client.calls.clear()
    assert await lost.release() is False
    assert faulty_client.operations == ["update_item"]
    assert await successor.is_valid()


async def test_a_dead_holder_is_taken_over_without_trusting_clocks(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    await take(store)
    clock.now -= 3600
    seen = await store.read_lock("k")
    assert seen is not None
    assert not (await store.claim_lock("k", claim("me"))).granted
    reply = await store.claim_lock("k", claim("me"), seen=seen)
    assert reply.granted
    assert reply.record is not None
    assert reply.record.fencing_token > seen.fencing_token


async def test_a_holder_that_renewed_since_it_was_seen_is_not_taken_over(
    store: DynamoDBAdapter,
) -> None:
    handle = await take(store)
    seen = await store.read_lock("k")
    await handle.extend()
    reply = await store.claim_lock("k", claim("me"), seen=seen)
    assert not reply.granted
    assert reply.record is not None
    assert reply.record.owner == handle.owner


async def test_taking_over_an_item_that_is_gone_is_refused(store: DynamoDBAdapter) -> None:
    await take(store)
    seen = await store.read_lock("k")
    await store._table.send(
        "delete_item", {"TableName": store._table.name, "Key": store._key("LOCK#", "k")}
    )
    reply = await store.claim_lock("k", claim("me"), seen=seen)
    assert (reply.granted, reply.record) == (False, None)


async def test_a_reservation_of_the_next_turn_is_respected_until_it_ends(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    reservation = {
        "releasedBy": {"S": "x"},
        "next": {"S": "reserver"},
        "nextUntil": {"N": str(int((clock.now + 1) * 1000))},
    }
    await put_raw(store, "k", version={"N": "1800000000000000"}, data={"M": reservation})
    assert not (await store.claim_lock("k", claim("other"))).granted
    assert (await store.claim_lock("k", claim("reserver"))).granted
    await put_raw(store, "k", version={"N": "1800000000000000"}, data={"M": reservation})
    clock.now += 1.001
    assert (await store.claim_lock("k", claim("other"))).granted


async def test_renewal_is_refused_at_another_version_and_shows_it(store: DynamoDBAdapter) -> None:
    handle = await take(store)
    await store.extend("k", 7, handle.owner)
    reply = await store.renew_lock("k", handle.owner, handle.fencing_token, 5000, 1)
    assert not reply.granted
    assert reply.record is not None
    assert reply.record.version == handle.fencing_token + 1
    assert await handle.extend()


async def test_a_late_renewal_does_not_move_the_lease_back(store: DynamoDBAdapter) -> None:
    handle = await take(store)
    version = handle.fencing_token
    until_ms = 1_800_000_009_000
    assert (await store.renew_lock("k", handle.owner, version, 5000, until_ms)).granted
    assert (await store.renew_lock("k", handle.owner, version + 1, 5000, until_ms + 9)).granted
    assert not (await store.renew_lock("k", handle.owner, version, 5000, until_ms)).granted
    record = await store.read_lock("k")
    assert record is not None
    assert record.lease_until_ms == until_ms + 9


async def test_extending_needs_the_owner_and_a_running_lease(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    assert await store.extend("k", 5, "worker") is False
    assert await store.acquire("k", 5, owner="worker") is not None
    assert await store.extend("k", 5, "other") is False
    clock.now += 4.9
    assert await store.extend("k", 5, "worker") is True
    clock.now += 4.9
    assert await store.acquire("k", 5, owner="worker") is None
    clock.now += 0.11
    assert await store.extend("k", 5, "worker") is False


async def test_the_holder_is_described_for_people(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    assert await store.holder("k") is None
    assert await store.acquire("k", 5, owner="worker") is not None
    clock.now += 2
    holder = await store.holder("k")
    assert holder is not None
    assert (holder.owner, holder.since, holder.lease_left) == ("worker", 1_800_000_000, 3)
    assert holder.pid is not None
    await store.force_release("k")
    assert await store.holder("k") is None
    assert await store.force_release("k") is False


@pytest.mark.parametrize(
    "attributes",
    [
        {"owner": {"S": "o"}, "version": {"N": "1"}, "data": {"M": {"acquiredAt": {"N": "1"}}}},
        {"owner": {"S": "o"}, "version": {"S": "one"}, "data": {"M": {"nonce": {"S": "n"}}}},
        {"version": {"N": "1"}, "data": {"S": "text"}},
        {},
    ],
    ids=repr,
)
async def test_a_malformed_lock_is_an_error_that_names_it_until_it_is_force_released(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, attributes: Any
) -> None:
    await put_raw(store, "k", **attributes)
    with pytest.raises(CorruptRecordError, match="'LOCK#k'"):
        await store.holder("k")
    assert await store.force_release("k") is True
    assert await store.holder("k") is None
    handle = await take(store)
    assert await handle.release()


async def test_a_forced_release_that_arrives_late_leaves_the_next_holder_alone(
    store: DynamoDBAdapter, faulty_client: FaultyClient, clock: ManualClock
) -> None:
    await take(store)
    await store.force_release("k")
    operation, late = faulty_client.calls[-1]
    assert operation == "update_item"
    clock.now += 0.001
    successor = await take(store)
    with pytest.raises(Exception, match="conditional"):
        await faulty_client.update_item(**late)
    assert await successor.is_valid()


async def test_a_forced_release_releases_a_holder_whose_clock_is_ahead(
    store: DynamoDBAdapter, clock: ManualClock
) -> None:
    await take(store, ttl=60)
    clock.now -= 10
    assert await store.force_release("k") is True
    assert await store.holder("k") is None


async def test_prefixes_keep_locks_apart_and_nest(
    faulty_client: FaultyClient, dynamodb_table: str
) -> None:
    outer = DynamoDBAdapter(faulty_client, dynamodb_table, key_prefix="a:")
    inner = DynamoDBAdapter(faulty_client, dynamodb_table, key_prefix="a:b:")
    other = DynamoDBAdapter(faulty_client, dynamodb_table, key_prefix="c:")
    await take(inner, "k")
    assert await outer.acquire("b:k", 5) is None
    assert await other.acquire("k", 5) is not None
    assert await outer.acquire("k", 5) is not None


async def test_exactly_one_of_many_concurrent_claims_takes_the_lock(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, clock: ManualClock
) -> None:
    async def contend(key: str, winners: list[LockHandle]) -> None:
        if (handle := await store.acquire(key, 5)) is not None:
            winners.append(handle)

    for key, prepare in {
        "new": None,
        "free": lambda: put_raw(
            store,
            "free",
            version={"N": "1800000000000000"},
            data={"M": {"releasedBy": {"S": "x"}}},
        ),
    }.items():
        if prepare is not None:
            await prepare()
        winners: list[LockHandle] = []
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(contend, key, winners)
        assert len(winners) == 1, key
