"""Answers that are lost: each write recognises its own echo, and is done once."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope.persistence import CircuitBreakerState, FailureReport, LockClaim
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import open_client
from tests.support.dynamodb_faults import (
    FaultyClient,
    LossyProxy,
    fine,
    lose_request,
    lose_response,
    never_answer,
)
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio

LOST_ANSWERS = pytest.mark.parametrize("lost", [lose_response, never_answer])
CLAIM = LockClaim(nonce="me", owner="me", lease_ms=5000)


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


async def half_open(store: DynamoDBAdapter, nonce: str = "me", limit: int = 1) -> None:
    await store.set_state("c", CircuitBreakerState(state="open"))
    assert (await store.claim_probe("c", nonce, 60_000, limit)).granted


async def state_of(store: DynamoDBAdapter) -> CircuitBreakerState:
    state = await store.get_state("c")
    assert state is not None
    return state


@LOST_ANSWERS
async def test_an_acquirer_whose_answer_was_lost_owns_the_lock_at_once(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, lost: Any
) -> None:
    faulty_client.faults.append(lost)
    handle = await store.acquire("k", 60)
    assert handle is not None
    first, second = faulty_client.calls
    assert first == second
    assert await handle.is_valid()
    holder = await other.holder("k")
    assert holder is not None
    assert (holder.owner, holder.fencing_token) == (handle.owner, handle.fencing_token)
    assert await handle.extend()
    assert await handle.release()


@LOST_ANSWERS
async def test_a_renewal_whose_answer_was_lost_is_granted(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any
) -> None:
    handle = await store.acquire("k", 60)
    assert handle is not None
    faulty_client.faults.append(lost)
    assert await handle.extend()
    record = await store.read_lock("k")
    assert record is not None
    assert record.version == handle.fencing_token + 1
    assert await handle.extend()


@LOST_ANSWERS
async def test_a_release_whose_answer_was_lost_counts(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any
) -> None:
    handle = await store.acquire("k", 60)
    assert handle is not None
    faulty_client.faults.append(lost)
    assert await handle.release() is True
    assert await store.acquire("k", 60) is not None


async def test_a_release_whose_answer_was_lost_counts_though_another_has_the_lock_since(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    successors: list[Any] = []

    async def lose_response_and_the_race(perform: Any) -> None:
        await perform()
        successors.append(await other.acquire("k", 60))
        raise ConnectionResetError

    handle = await store.acquire("k", 60)
    assert handle is not None
    faulty_client.faults.append(lose_response_and_the_race)
    assert await handle.release() is True
    assert await successors[0].is_valid()


async def test_a_release_that_came_too_late_does_not_count_though_its_answer_was_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter
) -> None:
    assert (await store.claim_lock("k", CLAIM)).granted
    seen = await other.read_lock("k")
    await other.claim_lock("k", LockClaim(nonce="it", owner="it", lease_ms=60_000), seen=seen)
    faulty_client.faults.append(lose_request)
    assert await store.release_lock("k", "me", in_time=False) is False


@LOST_ANSWERS
async def test_a_takeover_whose_answer_was_lost_is_granted(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, lost: Any
) -> None:
    await other.acquire("k", 60)
    seen = await store.read_lock("k")
    faulty_client.faults.append(lost)
    reply = await store.claim_lock("k", CLAIM, seen=seen)
    assert reply.granted
    assert reply == await store.claim_lock("k", CLAIM)


@LOST_ANSWERS
async def test_a_forced_release_whose_answer_was_lost_counts(
    store: DynamoDBAdapter, faulty_client: FaultyClient, other: DynamoDBAdapter, lost: Any
) -> None:
    await other.acquire("k", 60)
    faulty_client.faults.append(lost)
    assert await store.force_release("k") is True


@LOST_ANSWERS
async def test_an_extension_whose_answer_was_lost_counts(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any
) -> None:
    handle = await store.acquire("k", 60)
    assert handle is not None
    faulty_client.faults.append(lost)
    assert await store.extend("k", 120, handle.owner)
    record = await store.read_lock("k")
    assert record is not None
    assert record.fencing_token == handle.fencing_token


@pytest.mark.parametrize("failures", range(1, 7))
@LOST_ANSWERS
async def test_a_recorded_failure_is_counted_once_whichever_answer_is_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any, failures: int
) -> None:
    for number in range(1, failures):
        assert await store.record_failure("c", 4) == number
    faulty_client.faults += [fine, lost] if failures == 1 else [lost]
    assert await store.record_failure("c", 4) == failures
    state = await state_of(store)
    assert (state.failure_count, state.open_count) == (failures, int(failures >= 4))


async def test_failures_recorded_at_once_are_counted_once_though_many_answers_are_lost(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.record_failure("c", 1000)
    faulty_client.faults += [lose_response, fine, fine] * 15
    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(store.record_failure, "c", 1000)
    assert (await state_of(store)).failure_count == 31


async def test_a_trip_whose_answer_was_lost_opens_once(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.record_failure("c", 2)
    faulty_client.faults += [fine, lose_response]
    assert await store.record_failure("c", 2) == 2
    assert (await state_of(store)).open_count == 1


@pytest.mark.parametrize("failures", range(1, 4))
@LOST_ANSWERS
async def test_reported_failures_are_counted_once_whichever_answer_is_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any, failures: int
) -> None:
    for _ in range(1, failures):
        await store.count_failures("c", report())
    faulty_client.faults += [fine, lost] if failures == 1 else [lost]
    state = await store.count_failures("c", report())
    assert (state.failure_count, state.open_count) == (failures, int(failures == 3))
    assert state == await state_of(store)


async def test_a_failure_in_a_new_window_is_counted_once_though_its_answer_was_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient
) -> None:
    await store.set_state("c", CircuitBreakerState(failure_count=2, window_start_ms=1))
    faulty_client.faults += [fine, lose_response]
    state = await store.count_failures("c", report(window_ms=1000))
    assert (state.state, state.failure_count) == ("closed", 1)


@pytest.mark.parametrize("limit", [1, 2])
@LOST_ANSWERS
async def test_a_probe_whose_answer_was_lost_has_its_permit(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any, limit: int
) -> None:
    if limit == 1:
        await store.set_state("c", CircuitBreakerState(state="open"))
        faulty_client.faults.append(lost)
    else:
        await half_open(store, "it", limit)
        faulty_client.faults += [fine, lost]
    assert (await store.claim_probe("c", "me", 60_000, limit)).granted
    assert len((await state_of(store)).probes) == limit


@pytest.mark.parametrize(
    ("succeeded", "threshold", "after"),
    [(True, 1, "closed"), (True, 2, "half-open"), (False, 1, "open")],
)
@LOST_ANSWERS
async def test_a_verdict_whose_answer_was_lost_counts_once(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    lost: Any,
    succeeded: bool,
    threshold: int,
    after: str,
) -> None:
    await half_open(store)
    faulty_client.faults.append(lost)
    state = await store.settle_probe(
        "c", "me", succeeded=succeeded, success_threshold=threshold, open_ms=1000
    )
    assert state is not None
    assert state.state == after
    stored = await state_of(store)
    assert stored == state
    assert stored.success_count == int(after == "half-open")
    assert stored.open_count == int(after == "open")


@LOST_ANSWERS
async def test_other_writes_of_a_circuit_are_done_once_though_their_answer_was_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any
) -> None:
    await half_open(store)
    faulty_client.faults.append(lost)
    await store.return_probe("c", "me")
    assert (await state_of(store)).probes == {}
    faulty_client.faults.append(lost)
    await store.set_state("c", CircuitBreakerState(failure_count=2, window_start_ms=1))
    state = await state_of(store)
    assert (state.state, state.failure_count) == ("closed", 2)
    faulty_client.faults.append(lost)
    reset = await store.reset_failures("c", state.version)
    assert reset is not None
    assert reset.failure_count == 0
    await store.record_failure("c", 5)
    faulty_client.faults += [fine, lost]
    await store.record_success("c")
    assert (await state_of(store)).failure_count == 0


@LOST_ANSWERS
async def test_writes_of_the_cache_are_done_though_their_answer_was_lost(
    store: DynamoDBAdapter, faulty_client: FaultyClient, lost: Any
) -> None:
    faulty_client.faults.append(lost)
    await store.set("k", 1)
    faulty_client.faults.append(lost)
    assert await store.get("k") == 1
    faulty_client.faults.append(lost)
    assert await store.delete("k") is True
    assert await store.get("k") is None


async def test_answers_lost_on_the_wire_change_nothing(
    dynamodb_engine: Engine, dynamodb_table: str, on_asyncio: None
) -> None:
    """The same over a real connection: a proxy lets the request through and hangs up."""
    if dynamodb_engine.endpoint_url.startswith("https"):
        pytest.skip("the proxy does not speak TLS")
    proxy = LossyProxy(dynamodb_engine.endpoint_url)
    async with proxy.running(), open_client(endpoint_url=proxy.url) as client:
        store = DynamoDBAdapter(client, dynamodb_table, request_timeout=5)
        await store.has("warm-up")

        def lose_next_answer() -> None:
            assert proxy.drops == 0
            proxy.drops = 1

        lose_next_answer()
        handle = await store.acquire("k", 60)
        assert handle is not None
        lose_next_answer()
        assert await handle.extend()
        lose_next_answer()
        assert await handle.release() is True
        assert await store.record_failure("c", 3) == 1
        for count in (2, 3, 4):
            lose_next_answer()
            assert await store.record_failure("c", 3) == count
        await store.set_state("c", CircuitBreakerState(state="open"))
        lose_next_answer()
        assert (await store.claim_probe("c", "me", 60_000, 1)).granted
        lose_next_answer()
        state = await store.settle_probe("c", "me", succeeded=True, success_threshold=1, open_ms=1)
        assert state is not None
        assert state.state == "closed"
        lose_next_answer()
        await store.set("k", [1])
        lose_next_answer()
        assert await store.get("k") == [1]
        assert proxy.drops == 0
