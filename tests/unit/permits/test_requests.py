"""How many requests permits cost, where each change is a compare-and-swap."""

from __future__ import annotations

import pytest

from gogoscope import scope
from gogoscope.persistence import CompareAndSwapRecords, RecordStore
from tests.support.entries import DictPlace

pytestmark = pytest.mark.anyio


async def test_acquiring_is_one_request_and_releasing_is_one() -> None:
    place = DictPlace()
    async with scope(persistence=RecordStore(CompareAndSwapRecords(place))) as s:
        for number in range(1, 4):
            async with s.semaphore("k", 2):
                assert place.requests == 6 * number - 5
            async with s.read_lock("k"):
                assert place.requests == 6 * number - 3
            async with s.write_lock("k"):
                assert place.requests == 6 * number - 1
            assert place.requests == 6 * number
