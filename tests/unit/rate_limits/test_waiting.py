"""When calls go: at once, at the rate, in their order, or not at all."""

from __future__ import annotations

import math
import uuid
from functools import partial
from itertools import pairwise

import anyio
import pytest

from gogoscope import RateLimit, RateLimitExceededError, Retry, scope
from gogoscope.events import Event, RateLimitExceeded, RateLimitWaited
from gogoscope.persistence.rate_records import RateLimitState
from gogoscope.testing import UnpluggableStore
from tests.unit.rate_limits.conftest import CountingStore, Run
from tests.unit.rate_limits.times import Times


def test_the_burst_goes_at_once_and_the_rest_at_the_rate(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=3)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            for _ in range(8):
                await s.call(limit.call, times)
        assert times.at == [0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5]
        assert store.requests == {"reserve": 8}

    run(main)


def test_an_idle_limit_fills_up_to_its_burst(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=3)

    async def main() -> None:
        async with scope(persistence=store):
            times = Times()
            for wait in (0, 0.15, 10):
                await anyio.sleep(wait)
                for _ in range(4):
                    await limit.call(times)
        assert times.at[:4] == [0, 0, 0, 0.1]
        assert times.at[4:8] == [0.25, 0.3, 0.4, 0.5]
        assert times.at[8:] == [10.5, 10.5, 10.5, 10.6]

    run(main)


def test_rates_are_given_per_any_time(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=30, per=60)

    async def main() -> None:
        async with scope(persistence=store):
            times = Times()
            for _ in range(4):
                await limit.call(times)
        assert times.at == [0, 2, 4, 6]

    run(main)


def test_a_call_costs_its_units(run: Run, store: CountingStore) -> None:
    tokens = RateLimit("tokens", rate=100, burst=100)

    async def main() -> None:
        async with scope(persistence=store):
            times = Times()
            for cost in (60, 60, 100, 0.5):
                async with tokens.acquire(cost) as permit:
                    assert permit.cost == cost
                    await times()
        assert times.at == [0, 0.2, 1.2, 1.205]

    run(main)


def test_calls_of_very_many_different_costs_go(run: Run, store: CountingStore) -> None:
    limit = RateLimit("tokens", rate=1_000_000, burst=1_000_000)
    store.delay = 0.01
    gone: list[int] = []

    async def call(cost: int) -> None:
        async with limit.acquire(cost):
            gone.append(cost)

    async def main() -> None:
        async with scope(persistence=store) as s:
            for task in [s.task(call, cost) for cost in range(1, 1001)]:
                (await task).unwrap()
        assert sorted(gone) == list(range(1, 1001))
        assert store.requests["reserve"] <= 2

    run(main)


def test_calls_of_many_tasks_go_in_the_order_in_which_they_asked(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=10)
    store.delay = 0.01

    async def main() -> None:
        times, order = Times(), []

        async def call(number: int) -> None:
            async with limit.acquire():
                order.append(number)
                await times()

        async with scope(persistence=store) as s:
            for number in range(30):
                s.task(call, number)
        assert order == list(range(30))
        gaps = [later - earlier for earlier, later in pairwise(times.at)]
        assert min(gaps) >= 0.1 - 2 * store.delay
        # The first asks alone, and one of the others for all of them.
        assert store.requests["reserve"] == 2
        assert store.requests["read"] <= 3  # at most once a second, whether there is a pause

    run(main)


def test_the_calls_of_two_processes_alternate(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10)

    async def main() -> None:
        went: list[str] = []

        async def work(name: str) -> None:
            for _ in range(10):
                async with limit.acquire():
                    went.append(name)

        async with scope(persistence=store) as s, scope(persistence=store.elsewhere()) as t:
            s.task(work, "s")
            t.task(work, "t")
        for n in range(20):
            assert abs(went[:n].count("s") - went[:n].count("t")) <= 2

    run(main)


def test_who_would_wait_for_too_long_is_refused_and_told_exactly_how_long(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=10, burst=2, wait=0.25)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            for _ in range(2):
                await limit.call(times)
            async with limit.acquire(2):
                await times()
            with pytest.raises(RateLimitExceededError, match="'api' is exceeded") as refused:
                async with limit.acquire(wait=0):
                    pass
            with pytest.raises(RateLimitExceededError):
                async with limit.acquire(2, wait=0.15):
                    pass
        assert times.at == [0, 0, 0.2]
        assert refused.value.name == "api"
        assert refused.value.retry_after == pytest.approx(0.1, abs=0.002)

    run(main)


def test_a_call_after_retry_after_goes_at_once(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=5, wait=0)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            for _ in range(20):
                try:
                    await limit.call(times)
                except RateLimitExceededError as error:
                    await anyio.sleep(error.retry_after)
        # One call in each tenth of a second: no refusal told too little or too much.
        assert len(times.at) >= 12
        later = [0.1 * n for n in range(1, len(times.at) - 4)]
        assert times.at[5:] == pytest.approx(later, abs=0.02)

    run(main)


@pytest.mark.parametrize("rate", [7, 30, 37, 300])
@pytest.mark.parametrize("outage", [False, True])
def test_a_call_that_heeds_retry_after_is_not_refused_again(
    run: Run, store: CountingStore, rate: int, *, outage: bool
) -> None:
    """Though the clock of the store, or of the process, counts in whole milliseconds."""
    limit = RateLimit("api", rate=rate, wait=0, local_share=1)
    unpluggable = UnpluggableStore(store)
    once_more = Retry(attempts=2, retry_on=RateLimitExceededError)

    async def main() -> None:
        times = Times()
        if outage:
            unpluggable.unplug()
        async with scope(persistence=unpluggable) as s:
            for _ in range(50):
                await s.call(times, rate_limit=limit, retry=once_more)
        assert len(times.at) == 50

    run(main)


def test_refusals_that_are_known_make_no_request(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1, burst=1, wait=0)

    async def main() -> None:
        async with scope(persistence=store):
            times = Times()
            await limit.call(times)
            for _ in range(100):
                with pytest.raises(RateLimitExceededError):
                    await limit.call(times)
            assert store.requests == {"reserve": 1}
            await anyio.sleep(0.5)  # others may have returned a place meanwhile
            with pytest.raises(RateLimitExceededError):
                await limit.call(times)
            assert store.requests == {"reserve": 2}

    run(main)


def test_a_block_may_wait_for_another_time_than_its_limit(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1, wait=0)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            await limit.call(times)
            async with limit.acquire(wait=math.inf):
                await times()
            with pytest.raises(RateLimitExceededError):
                async with limit.acquire(wait=0.9):
                    pass
        assert times.at == [0, 1]

    run(main)


def test_nobody_waits_for_longer_than_a_day(run: Run, store: CountingStore) -> None:
    limit = RateLimit("yearly", rate=1, per=365 * 86_400)

    async def main() -> None:
        async with scope(persistence=store):
            async with limit.acquire():
                pass
            with pytest.raises(RateLimitExceededError):
                async with limit.acquire():
                    pass

    run(main)


def test_impatient_and_patient_calls_stand_in_one_line(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=1)
    store.delay = 0.001

    async def main() -> None:
        times, refused = Times(), []

        async def call(number: int, wait: float) -> None:
            try:
                async with limit.acquire(wait=wait):
                    await times()
            except RateLimitExceededError:
                refused.append(number)

        async with scope(persistence=store) as s:
            for number in range(12):
                s.task(call, number, 0.0 if number % 3 == 1 else 0.45)
        assert {1, 4, 7, 10} < set(refused)
        assert len(times.at) + len(refused) == 12
        assert len(times.at) == 5
        assert times.at[-1] <= 0.45

    run(main)


def test_waits_and_refusals_are_events(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=1)
    events: list[Event] = []

    async def main() -> None:
        async with scope(name="s", persistence=store, on_event=events.append):
            for _ in range(2):
                async with limit.acquire():
                    pass
            with pytest.raises(RateLimitExceededError):
                async with limit.acquire(wait=0):
                    pass
        waited, exceeded = [e for e in events if type(e).__name__.startswith("RateLimit")]
        assert isinstance(waited, RateLimitWaited)
        assert waited.limit == "api"
        assert waited.seconds == pytest.approx(0.1, abs=0.002)
        assert isinstance(exceeded, RateLimitExceeded)
        assert exceeded.retry_after == pytest.approx(0.1, abs=0.002)

    run(main)


def test_the_tree_shows_who_waits_for_a_limit(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=0.001)

    async def main() -> None:
        async with scope(persistence=store, on_exit="cancel") as s:
            for name in ("first", "second"):
                s.task(limit.call, anyio.sleep_forever, name=name)
            await anyio.sleep(0.01)
            line = next(line for line in s.tree().splitlines() if "task second" in line)
            assert line.endswith("waits for rate limit 'api'")

    run(main)


def test_the_state_is_read_and_listed(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=5)

    async def main() -> None:
        async with scope(persistence=store) as s:
            assert await limit.state() == RateLimitState(0, 0)
            async with limit.acquire(2):
                assert await limit.state() == RateLimitState(0.2, 0)
            assert await limit.state(store) == RateLimitState(0.2, 0)
            assert await s.call(store.rate_limits) == {"api": RateLimitState(0.2, 0)}

    run(main)


def test_a_decorated_function_is_limited(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10)

    async def main() -> None:
        times = Times()

        @limit
        async def fetch(url: str, *, deep: bool = False) -> tuple[str, bool]:
            """Fetch a page."""
            await times()
            return url, deep

        async with scope(persistence=store):
            assert await fetch("a") == ("a", False)
            assert await fetch("b", deep=True) == ("b", True)
        assert times.at == [0, 0.1]
        assert fetch.__doc__ == "Fetch a page."
        with pytest.raises(TypeError, match="limits async functions"):
            limit(lambda: None)  # type: ignore[arg-type, return-value]
        with pytest.raises(TypeError, match="takes a function"):
            await limit.call(3)  # type: ignore[arg-type]

    run(main)


def test_outside_of_scopes_the_limit_is_in_the_memory_of_the_process(run: Run) -> None:
    limit = RateLimit(f"outside of scopes {uuid.uuid4()}", rate=10)

    async def main() -> None:
        times = Times()
        await limit.call(times)
        async with scope():
            await limit.call(times)
        async with limit.acquire():
            await times()
        assert times.at == [0, 0.1, 0.2]

    run(main)


def test_policies_that_say_the_same_share_what_is_known(run: Run, store: CountingStore) -> None:
    make = partial(RateLimit, "api", rate=1, burst=1, wait=0)

    async def main() -> None:
        async with scope(persistence=store):
            times = Times()
            await make().call(times)
            with pytest.raises(RateLimitExceededError):
                await make().call(times)
            assert store.requests == {"reserve": 1}

    run(main)


def test_a_changed_rate_needs_no_migration(run: Run, store: CountingStore) -> None:
    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            for rate in (1, 1, 100, 100):
                await RateLimit("api", rate=rate).call(times)
        assert times.at == [0, 1, 2, 2.01]

    run(main)
