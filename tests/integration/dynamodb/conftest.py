"""A store whose requests the tests see, and whose clock they move."""

from __future__ import annotations

import pytest

from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.clocks import MillisecondClock
from tests.support.dynamodb_faults import FaultyClient


@pytest.fixture
def clock() -> MillisecondClock:
    return MillisecondClock()


@pytest.fixture
def store(
    faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock
) -> DynamoDBAdapter:
    return DynamoDBAdapter(faulty_client, dynamodb_table, clock=clock, request_timeout=5)
