"""An answer that is lost changes nothing: each write recognises its own echo, in DynamoDB."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import StoreConnectionError, StoreTimeoutError, scope
from gogoscope.persistence.lock_records import LockClaim
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.dynamodb_faults import (
    Fault,
    FaultyClient,
    be_silent,
    be_unreachable,
    lose_request,
    lose_response,
    never_answer,
    refuse,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(faulty_client: FaultyClient, dynamodb_table: str) -> DynamoDBAdapter:
    return DynamoDBAdapter(faulty_client, dynamodb_table, request_timeout=1)


def a_claim(nonce: str, turn: str | None = None) -> LockClaim:
    return LockClaim(nonce, nonce, 600_000, {}, turn)


FAULTS = [lose_response, lose_request, never_answer, be_unreachable, refuse("ThrottlingException")]
faults = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__qualname__[:16])


async def taken(store: DynamoDBAdapter, nonce: str) -> Any:
    reply = await store.claim_lock("job", a_claim(nonce))
    assert reply.granted
    return reply.record


@faults
async def test_a_handover_is_known_by_its_nonce(
    store: DynamoDBAdapter, faulty_client: FaultyClient, fault: Fault
) -> None:
    first = await taken(store, "n1")
    faulty_client.faults.append(fault)
    reply = await store.hand_over_lock("job", "n1", a_claim("n2"))
    assert reply.granted
    assert reply.record is not None
    assert reply.record.nonce == "n2"
    assert reply.record.fencing_token == first.version + 1


async def test_a_handover_of_a_lock_that_was_lost_meanwhile_is_refused(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await taken(store, "n1")
    assert await store.force_release("job")
    await taken(store, "n3")
    faulty_client.faults.append(lose_response)
    reply = await store.hand_over_lock("job", "n1", a_claim("n2"))
    assert not reply.granted
    assert reply.record is not None
    assert reply.record.nonce == "n3"


@faults
async def test_a_reservation_is_made_once_and_known_by_its_turn(
    store: DynamoDBAdapter, faulty_client: FaultyClient, fault: Fault
) -> None:
    first = await taken(store, "n1")
    faulty_client.faults.append(fault)
    reply = await store.reserve_lock("job", "t2", 5000)
    assert reply.granted
    assert reply.record is not None
    assert (reply.record.next_turn, reply.record.version) == ("t2", first.version)


@faults
async def test_an_extension_by_owner_that_landed_counts(
    store: DynamoDBAdapter, faulty_client: FaultyClient, fault: Fault
) -> None:
    handle = await store.acquire("job", 600, "me")
    assert handle is not None
    faulty_client.faults.append(fault)
    assert await store.extend("job", 900, "me") is True
    record = await store.read_lock("job")
    assert record is not None
    assert record.fencing_token == handle.fencing_token
    assert await handle.extend() is True


@faults
async def test_a_takeover_is_known_by_its_nonce(
    store: DynamoDBAdapter, faulty_client: FaultyClient, fault: Fault
) -> None:
    dead = await taken(store, "dead")
    faulty_client.faults.append(fault)
    reply = await store.claim_lock("job", a_claim("n2"), seen=dead)
    assert reply.granted
    assert reply.record is not None
    assert reply.record.fencing_token == dead.version + 1


@pytest.mark.parametrize("fault", [lose_response, never_answer])
async def test_a_waiter_gets_the_lock_though_every_answer_to_the_handover_is_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient, fault: Fault
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", 600)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", 600, None)
        await anyio.sleep(0.05)
        faulty_client.calls.clear()

        async def handover_fails(perform: Any) -> Any:
            _, parameters = faulty_client.calls[-1]
            if ":oldNonce" in parameters["ExpressionAttributeValues"]:
                return await fault(perform)
            return await perform()

        faulty_client.constant_faults["update_item"] = handover_fails
        assert await handle.release() is True
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


async def test_a_claim_on_a_store_that_is_down_raises_why_it_failed(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    async with scope(persistence=store) as s:
        for fault, error, wait in (
            (be_unreachable, StoreConnectionError, 5),  # all tries fail within 2 s
            (be_silent, StoreTimeoutError, 1),
        ):
            faulty_client.constant_faults["update_item"] = fault
            with pytest.raises(error):
                await s.acquire_lock("job", 600, wait=wait)
        faulty_client.constant_faults.clear()
        assert await s.acquire_lock("job", 600) is not None
