"""What a place may be wrong about the time is added to the skew of its locks."""

from __future__ import annotations

import pytest

from gogoscope.persistence import CompareAndSwapRecords, RecordStore
from tests.support.clocks import MillisecondClock
from tests.support.entries import DictPlace

pytestmark = pytest.mark.anyio


class FarPlace(DictPlace):
    def clock_error_ms(self) -> int:
        return 40


async def test_a_dead_lock_is_taken_over_after_the_skew_and_the_error_of_the_clock() -> None:
    clock = MillisecondClock()
    store = RecordStore(CompareAndSwapRecords(FarPlace(clock)), max_clock_skew=0.06)
    assert await store.acquire("k", 1) is not None
    clock.advance(1100)
    assert await store.acquire("k", 1) is None
    clock.advance(1)
    assert await store.acquire("k", 1) is not None
