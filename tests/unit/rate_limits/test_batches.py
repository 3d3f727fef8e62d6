"""Batches: a process reserves places for the calls to come, too."""

from __future__ import annotations

import anyio
import pytest

from gogoscope import RateLimit, scope
from tests.unit.rate_limits.conftest import CountingStore, Run
from tests.unit.rate_limits.times import Times


def test_a_process_takes_a_batch_at_once(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=5, batch=5)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            for _ in range(20):
                await limit.call(times)
        assert times.at == [0] * 5 + [pytest.approx(0.1 * n, abs=0.001) for n in range(1, 16)]
        assert store.requests["reserve"] == 4

    run(main)


def test_the_places_of_a_batch_have_their_own_times(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=4, batch=4)
    there = store.elsewhere()

    async def main() -> None:
        here, elsewhere = Times(), Times()
        async with scope(persistence=store) as s, scope(persistence=there) as t:

            async def work(times: Times) -> None:
                for _ in range(16):
                    await limit.call(times)

            s.task(work, here)
            t.task(work, elsewhere)
        times = sorted(here.at + elsewhere.at)
        for n, at in enumerate(times):
            assert at >= (n - 3) * 0.1 - 0.01 or n < 4
        assert abs(here.at[-1] - elsewhere.at[-1]) < 1

    run(main)


def test_auto_takes_what_was_used_in_the_last_quarter_of_a_second(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=100, burst=40, batch="auto")

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            for _ in range(500):
                await limit.call(times)
        assert times.at[-1] == pytest.approx(4.6, abs=0.02)
        assert store.requests["reserve"] <= 0.15 * 500

    run(main)


def test_auto_takes_one_at_a_time_for_slow_calls(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=100, burst=40, batch="auto")

    async def main() -> None:
        async with scope(persistence=store):
            for _ in range(10):
                await limit.call(anyio.sleep, 1)
            assert (await limit.state()).full_in == 0
        assert store.requests["reserve"] == 10

    run(main)


def test_what_is_held_gives_way_to_a_pause(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=10, batch=10)
    there = store.elsewhere()

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s, scope(persistence=there) as t:
            await s.call(times, rate_limit=limit)
            await t.call(limit.pause, 5)
            await anyio.sleep(1.5)
            await s.call(times, rate_limit=limit)
        assert times.at[1] >= 5

    run(main)


def test_impatient_calls_do_without_a_batch_that_is_not_there(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=10, burst=8, batch=8, wait=0)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store), scope(persistence=store.elsewhere()) as t:
            await t.call(limit.acquire(5).__aenter__)
            for _ in range(3):
                await limit.call(times)
        assert times.at == [0, 0, 0]

    run(main)
