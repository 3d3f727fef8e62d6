"""A clock that is off the time of DynamoDB's answers takes no lock that it has not watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import anyio
import pytest

from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.clocks import WrongClock
from tests.support.dynamodb_faults import FaultyClient, Perform

pytestmark = pytest.mark.anyio

Opener = Callable[..., DynamoDBAdapter]


@pytest.fixture
def opened(faulty_client: FaultyClient, dynamodb_table: str) -> Opener:
    def store(seconds: float = 0.0) -> DynamoDBAdapter:
        return DynamoDBAdapter(faulty_client, dynamodb_table, clock=WrongClock(seconds))

    return store


async def test_a_clock_that_is_ahead_takes_over_only_what_it_has_watched(opened: Opener) -> None:
    holder, ahead = opened(), opened(3600)
    assert await holder.acquire("k", 2) is not None
    for _ in range(3):
        assert await ahead.acquire("k", 2) is None
    await anyio.sleep(2.1)
    assert await ahead.acquire("k", 2) is not None


async def test_a_clock_that_is_right_takes_over_a_dead_holder_with_its_first_call(
    opened: Opener, faulty_client: FaultyClient
) -> None:
    await opened().acquire("k", 1)
    await anyio.sleep(1.2)
    faulty_client.calls.clear()
    new = opened()
    assert await new.acquire("k", 1) is not None
    assert len(faulty_client.calls) == 2  # Only the first answer told the time.
    await opened().acquire("other", 1)
    await anyio.sleep(1.2)
    faulty_client.calls.clear()
    assert await new.acquire("other", 1) is not None
    assert len(faulty_client.calls) == 1


async def test_a_free_lock_is_taken_whatever_the_clock_says(
    opened: Opener, faulty_client: FaultyClient
) -> None:
    assert await opened(-3600).acquire("k", 1) is not None
    assert len(faulty_client.calls) == 1


@pytest.mark.parametrize(("off", "trusted"), [(1.0, True), (-1.0, True), (5.0, False), (-5, False)])
async def test_a_clock_is_compared_with_the_last_answer(
    opened: Opener, faulty_client: FaultyClient, off: float, trusted: bool
) -> None:
    async def tell_another_time(perform: Perform) -> Any:
        try:
            return await perform()
        except Exception as error:
            response: Any = error.response  # type: ignore[attr-defined]
            headers = response["ResponseMetadata"]["HTTPHeaders"]
            headers["date"] = formatdate(time.time() + off, usegmt=True)
            raise

    await opened().acquire("k", 1)
    await anyio.sleep(1.2)
    faulty_client.constant_faults["update_item"] = tell_another_time
    handle = await opened().acquire("k", 10)
    assert (handle is not None) is trusted
