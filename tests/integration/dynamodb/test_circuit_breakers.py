"""Circuit breakers in a table: the same answers as the pure rules, and what each method costs."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest
from attrs import evolve

from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence import CircuitBreakerState, FailureReport, circuit_rules
from gogoscope.testing.conformance import ManualClock
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.circuit_breakers import items as circuit_items
from tests.support.clocks import START_MS, MillisecondClock
from tests.support.dynamodb_faults import FaultyClient
from tests.support.engines import Engine

pytestmark = pytest.mark.anyio

START = 1_800_000_000.0
DAY = 86_400


async def raw_item(store: DynamoDBAdapter, key: str = "c") -> dict[str, Any]:
    item = await store._table.read(store._key("CB#", key), consistent=True)
    assert item is not None
    return item


async def state_of(store: DynamoDBAdapter, key: str = "c") -> CircuitBreakerState:
    state = await store.get_state(key)
    assert state is not None
    return state


def report(count: int = 1, threshold: int = 3, **more: Any) -> FailureReport:
    values: dict[str, Any] = {"reporter": "me", "open_ms": 1000, **more}
    return FailureReport(count=count, threshold=threshold, **values)


async def half_open(store: DynamoDBAdapter, clock: MillisecondClock, probes: int = 1) -> None:
    await store.count_failures("c", report(3))
    clock.advance(1000)
    for number in range(probes):
        assert (await store.claim_probe("c", f"p{number}", 500, probes)).granted


async def test_the_item_is_as_the_schema_says(store: DynamoDBAdapter) -> None:
    await store.count_failures("c", report())
    assert await raw_item(store) == {
        "pk": {"S": "CB#c"},
        "sk": {"S": "METADATA"},
        "version": {"N": str(START_MS * 1000)},
        "expiresAt": {"N": str(int(START) + DAY)},
        "data": {
            "M": {
                "state": {"S": "closed"},
                "failureCount": {"N": "1"},
                "openCount": {"N": "0"},
                "successCount": {"N": "0"},
                "windowStart": {"N": str(START_MS)},
                "lastFailureTime": {"N": str(START_MS)},
                "reporters": {"M": {"me": {"N": str(START_MS)}}},
                "probes": {"M": {}},
            }
        },
    }


async def test_a_recorded_failure_is_one_write_after_the_first_and_before_the_trip(
    store: DynamoDBAdapter, faulty_client: FaultyClient, clock: MillisecondClock
) -> None:
    costs = []
    for expected in range(1, 7):
        clock.advance(1)
        faulty_client.calls.clear()
        assert await store.record_failure("c", 5) == expected
        costs.append(len(faulty_client.calls))
    assert costs == [2, 1, 1, 1, 2, 2]
    state = await state_of(store)
    assert (state.state, state.failure_count, state.open_count) == ("open", 6, 1)
    assert state.open_until_ms == START_MS + 5 + 30_000


async def test_the_failure_that_reaches_the_threshold_trips_in_the_same_write(
    store: DynamoDBAdapter, faulty_client: FaultyClient, clock: MillisecondClock
) -> None:
    costs = []
    for _ in range(4):
        clock.advance(1)
        faulty_client.calls.clear()
        await store.count_failures("c", report(threshold=3))
        costs.append(len(faulty_client.calls))
    assert costs == [2, 1, 1, 1]
    state = await state_of(store)
    assert (state.state, state.failure_count, state.open_count) == ("open", 3, 1)


async def test_a_threshold_of_one_opens_a_new_circuit(store: DynamoDBAdapter) -> None:
    state = await store.count_failures("c", report(threshold=1))
    assert (state.state, state.open_until_ms) == ("open", START_MS + 1000)
    assert await state_of(store) == state


async def test_a_process_that_never_saw_the_count_can_trip_the_circuit(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    dynamodb_table: str,
    clock: MillisecondClock,
) -> None:
    await store.count_failures("c", report(2, threshold=3))
    other = DynamoDBAdapter(faulty_client, dynamodb_table, clock=clock)
    faulty_client.calls.clear()
    clock.advance(100)  # more than clocks differ
    state = await other.count_failures("c", report(threshold=3, reporter="other"))
    assert (state.state, state.failure_count) == ("open", 3)
    assert len(faulty_client.calls) == 2


async def test_failures_count_although_the_expected_trip_does_not_happen(
    store: DynamoDBAdapter,
    faulty_client: FaultyClient,
    dynamodb_table: str,
    clock: MillisecondClock,
) -> None:
    state = await store.count_failures("c", report(2, threshold=3))
    other = DynamoDBAdapter(faulty_client, dynamodb_table, clock=clock)
    clock.advance(1)
    assert await other.reset_failures("c", state.version) is not None
    clock.advance(1)
    state = await store.count_failures("c", report(threshold=3))
    assert (state.state, state.failure_count) == ("closed", 1)


async def test_a_quorum_of_processes_must_have_reported(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    for _ in range(5):
        clock.advance(1)
        await store.count_failures("c", report(quorum=2))
    state = await state_of(store)
    assert (state.state, state.failure_count) == ("closed", 5)
    clock.advance(1)
    state = await store.count_failures("c", report(quorum=2, reporter="other"))
    assert (state.state, state.failure_count) == ("open", 6)


async def test_failures_outside_the_window_do_not_count(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await store.count_failures("c", report(2, window_ms=100))
    clock.advance(100)
    state = await store.count_failures("c", report(window_ms=100))
    assert (state.state, state.failure_count) == ("closed", 1)
    clock.advance(99)
    state = await store.count_failures("c", report(2, window_ms=100))
    assert (state.state, state.failure_count) == ("open", 3)


async def test_many_at_once_in_one_adapter_are_counted_exactly(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, dynamodb_table: str, faulty_client: Any
) -> None:
    other = DynamoDBAdapter(faulty_client, dynamodb_table, clock=ManualClock(START))
    counts: list[int] = []

    async def fail(adapter: DynamoDBAdapter) -> None:
        counts.append(await adapter.record_failure("c", 1000))

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(fail, store)
            tasks.start_soon(fail, other)
    assert sorted(counts) == list(range(1, 61))
    assert (await state_of(store)).failure_count == 60


async def test_two_stores_of_one_process_that_report_under_one_name_are_both_counted(
    store: DynamoDBAdapter, dynamodb_table: str, faulty_client: Any
) -> None:
    other = DynamoDBAdapter(faulty_client, dynamodb_table, clock=ManualClock(START))
    await store.count_failures("c", report(threshold=10))
    state = await other.count_failures("c", report(threshold=10))
    assert state.failure_count == 2


async def test_of_many_concurrent_probes_only_the_limit_is_granted(
    atomic_dynamodb: Engine, store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await store.count_failures("c", report(3))
    clock.advance(1000)
    granted: list[str] = []

    async def probe(nonce: str) -> None:
        if (await store.claim_probe("c", nonce, 500, 3)).granted:
            granted.append(nonce)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(probe, f"p{number}")
    assert len(granted) == 3
    assert set((await state_of(store)).probes) == set(granted)


async def test_an_expired_probe_loses_its_permit_to_the_next(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await half_open(store, clock, probes=2)
    clock.advance(499)
    assert not (await store.claim_probe("c", "late", 500, 2)).granted
    clock.advance(1)
    reply = await store.claim_probe("c", "late", 500, 2)
    assert reply.granted
    assert set(reply.state.probes) == {"late"}
    verdict = await store.settle_probe("c", "p0", succeeded=True, success_threshold=1, open_ms=1000)
    assert verdict is None


async def test_the_permit_of_a_returned_probe_is_free_for_the_next(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await half_open(store, clock)
    await store.return_probe("c", "p0")
    await store.return_probe("c", "p0")
    assert (await store.claim_probe("c", "next", 500, 1)).granted


async def test_a_probe_that_claims_again_keeps_its_permit(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await half_open(store, clock)
    assert (await store.claim_probe("c", "p0", 500, 1)).granted


async def test_a_forced_circuit_lasts_until_it_is_released(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await store.count_failures("c", report())
    await store.set_state("c", CircuitBreakerState(state="forced-open"))
    assert "expiresAt" not in await raw_item(store)
    clock.advance(1)
    assert (await store.count_failures("c", report())).state == "forced-open"
    assert await store.record_failure("c", 1) == 1
    assert not (await store.claim_probe("c", "p", 500, 1)).granted
    await store.record_success("c")
    assert (await state_of(store)).state == "forced-open"
    assert "expiresAt" not in await raw_item(store)
    await store.set_state("c", CircuitBreakerState())
    assert (await state_of(store)).state == "closed"
    assert "expiresAt" in await raw_item(store)


async def test_an_open_circuit_is_kept_a_day_beyond_its_time(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    await store.count_failures("c", report(threshold=1, open_ms=7_200_000))
    kept = (await raw_item(store))["expiresAt"]
    assert kept == {"N": str(int(START) + 7200 + DAY)}
    clock.advance(5)
    await store.record_failure("c", 1)
    assert (await raw_item(store))["expiresAt"] == kept


async def test_setting_a_state_grows_the_version_whatever_it_was(store: DynamoDBAdapter) -> None:
    versions = []
    for state in ("open", "closed", "forced-open", "half-open", "closed"):
        await store.set_state("c", CircuitBreakerState(state=state, version=7))
        versions.append((await state_of(store)).version)
    assert versions == sorted(set(versions))
    assert versions[0] > 1_000_000


async def test_a_success_writes_only_when_there_is_something_to_reset(
    store: DynamoDBAdapter, faulty_client: FaultyClient, clock: MillisecondClock
) -> None:
    await store.record_success("c")
    assert faulty_client.operations == ["get_item"]
    await store.record_failure("c", 5)
    clock.advance(1)
    faulty_client.calls.clear()
    await store.record_success("c")
    await store.record_success("c")
    assert faulty_client.operations == ["get_item", "update_item", "get_item"]
    assert (await state_of(store)).failure_count == 0


async def test_resetting_takes_the_newest_version(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    assert await store.reset_failures("c", 1) is None
    first = await store.count_failures("c", report())
    clock.advance(1)
    second = await store.count_failures("c", report())
    assert await store.reset_failures("c", first.version) is None
    reset = await store.reset_failures("c", second.version)
    assert reset is not None
    assert (reset.failure_count, reset.reporters) == (0, {})
    assert await store.reset_failures("c", reset.version) == reset


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "version": {"N": "1"},
            "data": {"M": {"state": {"S": "open"}, "failureCount": {"N": "2"}}},
        },
        {"version": {"S": "one"}, "data": {"M": {}}},
        {"version": {"N": "-1"}, "data": {"S": "text"}},
        {},
    ],
    ids=repr,
)
async def test_a_malformed_circuit_is_an_error_that_names_it_until_it_is_replaced(
    store: DynamoDBAdapter, attributes: Any
) -> None:
    await store._table.put(store._key("CB#", "c") | attributes)
    with pytest.raises(CorruptRecordError, match="'CB#c'"):
        await store.get_state("c")
    await store.set_state("c", CircuitBreakerState(failure_count=2))
    assert await store.record_failure("c", 5) == 3


async def test_memory_does_not_grow_with_the_circuits(
    store: DynamoDBAdapter, clock: MillisecondClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_items, "REMEMBERED", 5)
    for number in range(12):
        clock.advance(1)
        await store.record_failure(f"c{number}", 5)
    assert len(store._last_seen) == 5
    assert len(store._turns._lanes) == 0
    assert len(store._turns._last_names) <= 1


@pytest.mark.parametrize("seed", range(4))
async def test_the_answers_are_those_of_the_pure_rules(
    store: DynamoDBAdapter, clock: MillisecondClock, seed: int
) -> None:
    """A random walk over every method, side by side with the rules that other stores use."""
    choose = random.Random(seed)
    model: CircuitBreakerState | None = None
    for step in range(150):
        clock.advance(choose.choice([1, 2, 50, 400]))
        now_ms = store._now_ms()
        operation = choose.choice(
            ["count"] * 4 + ["record", "success", "probe", "probe", "settle", "return", "set"]
        )
        nonce = choose.choice("abc")
        if operation == "count":
            failures = FailureReport(
                reporter=choose.choice(["p", "q"]),
                count=choose.choice([1, 1, 2]),
                threshold=choose.choice([2, 4]),
                open_ms=300,
                window_ms=choose.choice([None, 200]),
                quorum=choose.choice([1, 1, 2]),
            )
            model, _ = circuit_rules.count_failures(model, now_ms, failures)
            assert same(await store.count_failures("c", failures), model), (step, operation)
        elif operation == "record":
            model, count = circuit_rules.record_failure(model, now_ms, 5)
            assert await store.record_failure("c", 5) == count
            reporters = {**model.reporters, store._reporter: now_ms}
            model = evolve(model, reporters=reporters)
        elif operation == "success":
            model, _ = circuit_rules.record_success(model, now_ms)
            await store.record_success("c")
        elif operation == "probe":
            limit = choose.choice([1, 2])
            model, expected = circuit_rules.claim_probe(model, now_ms, nonce, 200, limit)
            reply = await store.claim_probe("c", nonce, 200, limit)
            assert reply.granted == expected.granted, (step, operation)
        elif operation == "settle":
            options: Any = {
                "succeeded": choose.random() < 0.7,
                "success_threshold": choose.choice([1, 2]),
                "open_ms": 250,
            }
            model, verdict = circuit_rules.settle_probe(model, now_ms, nonce, **options)
            found = await store.settle_probe("c", nonce, **options)
            assert (found is None) == (verdict is None), (step, operation)
        elif operation == "return":
            model, _ = circuit_rules.return_probe(model, now_ms, nonce)
            await store.return_probe("c", nonce)
        elif operation == "set" and choose.random() < 0.3:
            model = choose.choice(
                [
                    CircuitBreakerState(),
                    CircuitBreakerState(state="open", open_until_ms=now_ms + 100),
                    CircuitBreakerState(state="open"),
                    CircuitBreakerState(state="forced-open"),
                ]
            )
            await store.set_state("c", model)
        stored = await store.get_state("c")
        assert (stored is None) == (model is None), (step, operation)
        if stored is not None and model is not None:
            assert same(stored, model), (step, operation)


def same(stored: CircuitBreakerState, model: CircuitBreakerState) -> bool:
    assert evolve(stored, version=0) == evolve(model, version=0)
    return True


async def test_a_probe_takes_the_place_of_any_number_of_dead_ones(
    store: DynamoDBAdapter, clock: MillisecondClock
) -> None:
    now_ms = int(clock.wall() * 1000)
    probes = {f"{number:016x}": now_ms - 1000 for number in range(500)}
    state = CircuitBreakerState(state="half-open", probes=probes, window_start_ms=1)
    for limit in (500, 1):
        await store.set_state("c", state)
        assert (await store.claim_probe("c", "mine", 60_000, limit)).granted
        assert (await state_of(store)).probes == {"mine": now_ms + 60_000}


async def test_a_circuit_that_is_corrupt_is_left_out_of_the_list_and_can_be_reset(
    store: DynamoDBAdapter, faulty_client: FaultyClient, caplog: pytest.LogCaptureFixture
) -> None:
    await store.record_failure("good", 5)
    for key, wrong in CORRUPT.items():
        await store.record_failure(key, 5)
        item = await raw_item(store, key)
        item["data"]["M"] |= wrong
        await faulty_client.put_item(TableName=store._table.name, Item=item)
    for key in CORRUPT:
        with pytest.raises(CorruptRecordError, match=f"CB#{key}"):
            await store.get_state(key)
    assert set(await store.circuits()) == {"good"}
    assert all(f"CB#{key}" in caplog.text for key in CORRUPT)
    for key in CORRUPT:
        assert (await store.reset_circuit(key)).state == "closed"
    assert set(await store.circuits()) == {"good", *CORRUPT}


CORRUPT: dict[str, Any] = {
    "state": {"state": {"S": "evil"}},
    "probes": {"probes": {"L": []}},
    "negative": {"failureCount": {"N": "-1"}},
    "fraction": {"windowStart": {"N": "1.5"}},
    "huge": {"openUntil": {"N": "1e30"}},
}
