"""What somebody has on DynamoDB is nobody else's, however wrong the clock of its machine is."""

from __future__ import annotations

from typing import Any

import pytest

from gogoscope import GogoscopeError, Scope, scope
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from tests.integration.dynamodb.test_schedules import HOUR
from tests.support.clocks import WrongClock

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("on_asyncio")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def block(s: Scope, what: str) -> Any:
    if what == "run":
        return s.claim("k", 60, lease=30, wait=0)
    if what == "job":
        return s.job("k", state={}, lease=30, wait=0)
    if what == "semaphore":
        return s.semaphore("k", 1, ttl=30, wait=0)
    return s.write_lock("k", ttl=30, wait=0)


@pytest.mark.parametrize("what", ["run", "job", "semaphore", "write lock"])
@pytest.mark.parametrize("when", ["from the beginning", "later"])
@pytest.mark.parametrize("error", [-HOUR / 2, HOUR / 2])
async def test_it_is_not_taken_over_while_it_is_held(
    dynamodb_client: DynamoDBClient, dynamodb_table: str, what: str, when: str, error: float
) -> None:
    clock = WrongClock(error if when == "from the beginning" else 0.0)
    wrong = DynamoDBAdapter(dynamodb_client, dynamodb_table, clock=clock)
    right = DynamoDBAdapter(dynamodb_client, dynamodb_table)
    async with scope(persistence=wrong) as first, scope(persistence=right) as second:
        if when == "later":
            async with first.semaphore("another", 1):
                clock.error = error
        for holder, other in ((first, second), (second, first)):
            async with block(holder, what) as held:
                held.ensure()
                with pytest.raises(GogoscopeError):
                    async with block(other, what):
                        pytest.fail("two have it")
                held.ensure()
                if what == "run":
                    break


@pytest.mark.parametrize("error", [-HOUR / 2, HOUR / 2])
async def test_a_lock_is_not_taken_over_though_the_clock_of_its_holder_was_set(
    dynamodb_client: DynamoDBClient, dynamodb_table: str, error: float
) -> None:
    clock = WrongClock(0.0)
    wrong = DynamoDBAdapter(dynamodb_client, dynamodb_table, clock=clock)
    right = DynamoDBAdapter(dynamodb_client, dynamodb_table)
    before = await wrong.acquire("before", 30)
    clock.error = error
    after = await wrong.acquire("after", 30)
    for key, handle in (("before", before), ("after", after)):
        assert handle is not None
        assert await right.acquire(key, 30) is None
        assert await handle.extend(60)
        assert await right.acquire(key, 30) is None
        handle.ensure()
        assert await handle.release()
        taken = await right.acquire(key, 30)
        assert taken is not None
        assert await wrong.acquire(key, 30) is None
        taken.ensure()
