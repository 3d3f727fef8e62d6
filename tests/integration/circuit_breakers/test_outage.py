"""A table that is away: the calls of a circuit go on, and it agrees with the table afterwards."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, scope
from gogoscope.circuit_breakers import probes, sync
from gogoscope.events import CircuitStoreFailed, CircuitStoreRecovered, Event
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.dynamodb_faults import FaultyClient, be_silent, be_unreachable, refuse

pytestmark = pytest.mark.anyio

FAULTS = {
    "silent": be_silent,
    "unreachable": be_unreachable,
    "throttled": refuse("ProvisionedThroughputExceededException"),
}
INTERVAL = 0.3
AT_ONCE = 2.0
"""Far above what a call takes, far below what a request that is waited for takes here."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever waits for the table wait for much longer than a busy machine stands still."""
    monkeypatch.setattr(sync, "FIRST_READ_SECONDS", 2 * AT_ONCE)
    for module in (sync, probes):
        monkeypatch.setattr(module, "STORE_SECONDS", 2 * AT_ONCE)


async def fine() -> str:
    return "fine"


async def broken() -> str:
    raise OSError("broken")


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_call_waits_for_a_table_that_is_away_and_both_agree_afterwards(
    dynamodb_store: DynamoDBAdapter, faulty_client: FaultyClient, fault: str
) -> None:
    events: list[Event] = []
    breaker = CircuitBreaker("payments", failure_threshold=3, refresh_interval=INTERVAL)
    async with scope(
        persistence=dynamodb_store, circuit_breaker=breaker, on_event=events.append
    ) as s:

        async def call(fn: Any = fine) -> Exception | None:
            with anyio.fail_after(AT_ONCE):
                return (await s.task(fn)).error

        assert (await s.task(fine)).error is None
        for operation in ("get_item", "put_item", "update_item"):
            faulty_client.constant_faults[operation] = FAULTS[fault]
        with anyio.fail_after(20):
            while not any(isinstance(event, CircuitStoreFailed) for event in events):
                assert await call() is None
                await anyio.sleep(0.01)
        for _ in range(3):
            assert isinstance(await call(broken), OSError)
        assert isinstance(await call(), CircuitOpenError)
        faulty_client.constant_faults.clear()
        with anyio.fail_after(20):
            while not any(isinstance(event, CircuitStoreRecovered) for event in events):
                await call()
                await anyio.sleep(0.01)
        with anyio.fail_after(20):
            while True:
                shared = await dynamodb_store.get_state("payments")
                rejected = isinstance(await call(), CircuitOpenError)
                if rejected == (shared is not None and shared.state == "open"):
                    break
                await anyio.sleep(INTERVAL)


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_call_of_a_busy_circuit_waits_for_a_probe_of_a_table_that_is_away(
    dynamodb_store: DynamoDBAdapter, faulty_client: FaultyClient, fault: str
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=0.8)
    async with scope(persistence=dynamodb_store, circuit_breaker=breaker) as s:
        assert isinstance((await s.task(broken)).error, OSError)
        await anyio.sleep(0.7)
        # Later than the circuit looks whether its table answers: only the calls can find out.
        for operation in ("get_item", "put_item", "update_item"):
            faulty_client.constant_faults[operation] = FAULTS[fault]
        errors: list[Exception | None] = []
        with anyio.fail_after(20):
            while not errors or errors[-1] is not None:
                with anyio.fail_after(AT_ONCE):
                    errors.append((await s.task(fine)).error)
                await anyio.sleep(0.02)
        # On a busy machine the circuit may be half open before the first of them.
        assert {type(error) for error in errors[:-1]} <= {CircuitOpenError}
