"""What is returned: what a block has not spent, and the places of those who were cancelled."""

from __future__ import annotations

import anyio
import pytest

from gogoscope import RateLimit, scope
from tests.unit.rate_limits.conftest import CountingStore, Run
from tests.unit.rate_limits.times import Times


def test_what_was_not_spent_is_returned(run: Run, store: CountingStore) -> None:
    tokens = RateLimit("tokens", rate=100, burst=100)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            async with tokens.acquire(100) as permit:
                permit.spent(40)
            assert (await tokens.state()).full_in == pytest.approx(0.4, abs=0.001)
            async with tokens.acquire(60):
                await times()
            async with tokens.acquire(1):
                await times()
        assert times.at == [0, 0.01]

    run(main)


def test_what_was_not_spent_is_lost_if_others_came_later(run: Run, store: CountingStore) -> None:
    tokens = RateLimit("tokens", rate=100, burst=100)

    async def main() -> None:
        async with scope(persistence=store), scope(persistence=store.elsewhere()) as t:
            async with tokens.acquire(50) as permit:
                await t.call(tokens.call, anyio.sleep, 0)
                permit.spent(0)
            assert (await tokens.state()).full_in == pytest.approx(0.51, abs=0.001)

    run(main)


def test_what_was_spent_beyond_is_taken(run: Run, store: CountingStore) -> None:
    tokens = RateLimit("tokens", rate=100, burst=100)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            async with tokens.acquire(50) as permit:
                permit.spent(250)
            async with tokens.acquire(1):
                await times()
        assert times.at == [1.51]

    run(main)


@pytest.mark.parametrize("spent", [9_000, 1e18, 1e308, pytest.param(10**308, id="10**308")])
def test_what_was_spent_beyond_a_day_is_taken_for_a_day(
    run: Run, store: CountingStore, spent: float
) -> None:
    tokens = RateLimit("tokens", rate=1, per=10, burst=100)

    async def main() -> None:
        async with scope(persistence=store):
            async with tokens.acquire(50) as permit:
                permit.spent(spent)
            assert (await tokens.state()).full_in == pytest.approx(86_400 + 1000, abs=0.001)

    run(main)


def test_the_last_who_waits_returns_its_place_when_cancelled(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            await s.call(times, rate_limit=limit)
            with anyio.move_on_after(0.5):
                await limit.call(times)
            await s.call(times, rate_limit=limit)
        assert times.at == [0, 1]
        assert store.requests["return"] == 1

    run(main)


def test_those_behind_one_that_is_cancelled_move_up(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            tasks = [s.task(times, rate_limit=limit) for _ in range(4)]
            await anyio.sleep(0.5)
            tasks[1].cancel()
            tasks[2].cancel()
            await anyio.sleep(0.1)
            s.task(times, rate_limit=limit)
        assert times.at == [0, 1, 2]

    run(main)


def test_a_place_that_another_process_stands_behind_is_for_the_next_call_here(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=1)

    async def main() -> None:
        here, there = Times(), Times()
        async with scope(persistence=store) as s, scope(persistence=store.elsewhere()) as t:
            await s.call(here, rate_limit=limit)
            cancelled = s.task(here, rate_limit=limit)
            await anyio.sleep(0.1)
            t.task(there, rate_limit=limit)
            await anyio.sleep(0.1)
            cancelled.cancel()
            await anyio.sleep(0.1)
            s.task(here, rate_limit=limit)
        assert (here.at, there.at) == ([0, 1], [2])
        assert store.requests["reserve"] == 3

    run(main)


def test_a_place_that_nobody_needs_until_its_time_is_lost(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1)

    async def main() -> None:
        here, there = Times(), Times()
        async with scope(persistence=store) as s, scope(persistence=store.elsewhere()) as t:
            await s.call(here, rate_limit=limit)
            cancelled = s.task(here, rate_limit=limit)
            await anyio.sleep(0.1)
            t.task(there, rate_limit=limit)
            await anyio.sleep(0.1)
            cancelled.cancel()
            await anyio.sleep(1)
            s.task(here, rate_limit=limit)
        assert (here.at, there.at) == ([0, 3], [2])

    run(main)


def test_all_who_are_cancelled_together_return_their_places(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            await s.call(times, rate_limit=limit)
            async with s.child() as inner:
                for _ in range(20):
                    inner.task(times, rate_limit=limit)
                await anyio.sleep(0.5)
                inner.cancel()
            await anyio.sleep(0.1)
            await s.call(times, rate_limit=limit)
        assert times.at == [0, 1]
        assert store.requests["return"] <= 20

    run(main)


def test_who_is_cancelled_outside_of_scopes_returns_its_place(run: Run) -> None:
    limit = RateLimit("cancelled outside of scopes", rate=1)

    async def main() -> None:
        times = Times()
        async with limit.acquire():
            began = times.now()
        with anyio.move_on_after(0.5):
            await limit.call(times)
        await limit.call(times)
        assert times.at == [pytest.approx(began + 1, abs=0.01)]

    run(main)


def test_who_is_cancelled_while_another_asks_leaves_the_line(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=10, burst=10)
    store.delay = 1.0

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            first = s.task(limit.call, times)
            others = [s.task(limit.call, times) for _ in range(3)]
            await anyio.sleep(0.5)
            others[0].cancel()
            await anyio.sleep(1)
            first.cancel()
            others[1].cancel()
            await anyio.sleep(3)
        assert len(times.at) == 2
        assert (await limit.state(store)).full_in <= 0.3

    run(main)


def test_the_places_of_costs_that_nobody_uses_are_forgotten_when_their_time_has_passed(
    run: Run, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gogoscope.rate_limits.bucket.MOST_COSTS", 8)
    tokens = RateLimit("tokens", rate=1000, burst=100)

    async def spend(cost: int) -> None:
        async with tokens.acquire(cost):
            pass

    async def main() -> None:
        async with scope(persistence=store) as s:
            for cost in range(2, 50):
                await spend(100)
                cancelled = s.task(spend, cost)
                await anyio.sleep(0.001)
                later = s.task(spend, 1)  # so what the other one has reserved is not returned
                await anyio.sleep(0.001)
                cancelled.cancel()
                await later
                await anyio.sleep(1)
            bucket = tokens.acquire()._limiter.bucket
        assert len(bucket._places) <= 2 * 8

    run(main)


def test_a_block_that_is_open_is_refused_and_may_be_entered_again_when_it_was_left(
    run: Run, store: CountingStore
) -> None:
    tokens = RateLimit("tokens", rate=100, burst=100)

    async def main() -> None:
        async with scope(persistence=store) as s:
            block = tokens.acquire(40)

            async def enter() -> None:
                async with block:
                    pass

            async with block as permit:
                permit.spent(10)
                refused = await s.task(enter)
                assert isinstance(refused.error, RuntimeError)
                assert str(refused.error).startswith("<Acquiring key='tokens'> is open already")
            assert (await tokens.state()).full_in == pytest.approx(0.1, abs=0.001)
            await enter()
            assert (await tokens.state()).full_in == pytest.approx(0.5, abs=0.001)

    run(main)


def test_a_block_whose_wait_was_cancelled_may_be_entered_again(
    run: Run, store: CountingStore
) -> None:
    tokens = RateLimit("tokens", rate=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            async with tokens.acquire():
                await times()
            block = tokens.acquire()
            with anyio.move_on_after(0.5):
                async with block:
                    raise AssertionError
            async with block:
                await times()
        assert times.at == [0, 1]

    run(main)
