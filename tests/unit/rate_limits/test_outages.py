"""A store that fails: the process goes on with a bucket of its own."""

from __future__ import annotations

import math

import anyio
import pytest

from gogoscope import RateLimit, RateLimitExceededError, StoreConnectionError, scope
from gogoscope.events import Event, RateLimitStoreFailed, RateLimitStoreRecovered
from gogoscope.testing import UnpluggableStore
from tests.unit.rate_limits.conftest import CountingStore, Run
from tests.unit.rate_limits.times import Times


@pytest.fixture
def unpluggable(store: CountingStore) -> UnpluggableStore:
    return UnpluggableStore(store)


def test_a_process_has_its_share_of_the_rate_while_the_store_fails(
    run: Run, unpluggable: UnpluggableStore
) -> None:
    limit = RateLimit("api", rate=100, burst=20, local_share=0.1)

    async def main() -> None:
        times = Times()
        unpluggable.unplug()
        async with scope(persistence=unpluggable):
            for _ in range(12):
                await limit.call(times)
        assert times.at[:3] == [0, 0, 0.1]
        assert times.at[-1] == pytest.approx(1, abs=0.01)

    run(main)


def test_outages_are_events_and_the_store_is_asked_once_a_second(
    run: Run, unpluggable: UnpluggableStore
) -> None:
    limit = RateLimit("api", rate=100, burst=1, local_share=1)
    events: list[Event] = []

    async def main() -> None:
        times = Times()
        async with scope(persistence=unpluggable, on_event=events.append):
            unpluggable.unplug()
            for _ in range(300):
                await limit.call(times)
            asked = unpluggable.requests["reserve_rate"]
            assert 2 <= asked <= 4
            unpluggable.plug_in()
            await anyio.sleep(1)
            await limit.call(times)
            assert (await limit.state()).full_in > 0
        kinds = [type(e) for e in events if type(e).__name__.startswith("RateLimitStore")]
        assert kinds == [RateLimitStoreFailed, RateLimitStoreRecovered]

    run(main)


def test_calls_wait_for_a_silent_store_once(run: Run, unpluggable: UnpluggableStore) -> None:
    limit = RateLimit("api", rate=1000, burst=100, local_share=1)

    async def main() -> None:
        times = Times()
        unpluggable.slow_down(math.inf)
        async with scope(persistence=unpluggable) as s:
            for _ in range(20):
                s.task(limit.call, times)
            await anyio.sleep(2.5)
            assert times.at == [2] * 20
            await limit.call(times)
            assert times.at[-1] == 2.5
            await anyio.sleep(1)
            # One finds out whether the store answers; the others do not wait for it.
            for _ in range(5):
                s.task(limit.call, times)
            await anyio.sleep(0.1)
            assert times.at[21:] == [3.5] * 4

    run(main)


def test_of_those_who_have_their_places_one_finds_out_whether_a_silent_store_answers(
    run: Run, unpluggable: UnpluggableStore
) -> None:
    limit = RateLimit("api", rate=0.4, local_share=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=unpluggable) as s:
            for _ in range(6):
                s.task(limit.call, times)
            await anyio.sleep(1)
            unpluggable.slow_down(math.inf)
        # Those at 2.5, 7.5 and 12.5 wait two seconds for an answer, and the next one for nothing.
        assert times.at == [0, 4.5, 5, 9.5, 10, 14.5]

    run(main)


def test_without_a_share_calls_fail(run: Run, unpluggable: UnpluggableStore) -> None:
    limit = RateLimit("api", rate=100, local_share=0)

    async def main() -> None:
        times = Times()
        unpluggable.unplug()
        async with scope(persistence=unpluggable):
            for _ in range(2):
                with pytest.raises(StoreConnectionError):
                    await limit.call(times)
            unpluggable.plug_in()
            await limit.call(times)
        assert times.at == [0]

    run(main)


def test_the_own_bucket_refuses_as_the_shared_one(run: Run, unpluggable: UnpluggableStore) -> None:
    limit = RateLimit("api", rate=10, burst=1, wait=0, local_share=0.5)

    async def main() -> None:
        times = Times()
        unpluggable.unplug()
        async with scope(persistence=unpluggable):
            await limit.call(times)
            with pytest.raises(RateLimitExceededError) as refused:
                await limit.call(times)
            assert refused.value.retry_after == pytest.approx(0.2, abs=0.002)

    run(main)


def test_a_call_that_fits_into_the_whole_bucket_goes_in_an_outage(
    run: Run, unpluggable: UnpluggableStore
) -> None:
    tokens = RateLimit("tokens", rate=100, burst=100, local_share=0.1)

    async def main() -> None:
        times = Times()
        unpluggable.unplug()
        async with scope(persistence=unpluggable):
            for _ in range(2):
                async with tokens.acquire(100) as permit:
                    await times()
                    permit.spent(50)
        assert times.at == [0, pytest.approx(10, abs=0.01)]

    run(main)
