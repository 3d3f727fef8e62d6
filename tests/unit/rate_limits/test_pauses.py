"""Pauses: by hand, and because a call's value or error asks for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from gogoscope import RateLimit, RateLimitExceededError, StoreConnectionError, scope
from gogoscope.events import Event, RateLimitPaused
from gogoscope.testing import UnpluggableStore
from tests.unit.rate_limits.conftest import CountingStore, Run
from tests.unit.rate_limits.times import Times


class TooManyError(Exception):
    retry_after = 3


def seconds_of(outcome: Any) -> float | None:
    return outcome.retry_after if isinstance(outcome, TooManyError) else None


def test_after_a_pause_calls_go_at_the_rate(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=5)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            await limit.call(times)
            await limit.pause(2)
            assert (await limit.state()).paused_for == 2
            for _ in range(3):
                await limit.call(times)
        assert times.at == [0, 2.1, 2.2, 2.3]

    run(main)


def test_a_pause_of_a_program_with_another_burst_holds_by_one_request(
    run: Run, store: CountingStore
) -> None:
    old, new = (RateLimit("api", rate=10, burst=burst) for burst in (1, 500))

    async def main() -> None:
        times = Times()
        async with scope(persistence=store):
            await old.pause(2)
            for _ in range(3):
                await new.call(times)
        assert times.at == [2.1, 2.2, 2.3]
        assert store.requests["reserve"] == 3

    run(main)


def test_a_pause_is_told_and_known_without_a_request(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=5, wait=0)
    events: list[Event] = []

    async def main() -> None:
        async with scope(persistence=store, on_event=events.append):
            await limit.pause(10)
            await anyio.sleep(5)
            for _ in range(3):
                with pytest.raises(RateLimitExceededError) as refused:
                    async with limit.acquire():
                        pass
                assert refused.value.retry_after == pytest.approx(5.1, abs=0.01)
            assert store.requests == {"pause": 1}
        assert [e.seconds for e in events if isinstance(e, RateLimitPaused)] == [10]

    run(main)


def test_those_who_wait_in_this_process_follow_at_once(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            for _ in range(5):
                s.task(times, rate_limit=limit)
            await anyio.sleep(0.15)
            await limit.pause(3)
        assert times.at[:2] == [0, 0.1]
        assert min(times.at[2:]) >= 3.15
        assert times.at[2:] == pytest.approx([3.25, 3.35, 3.45], abs=0.01)

    run(main)


def test_those_who_slept_for_a_second_elsewhere_look_before_they_go(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=0.5)
    there = store.elsewhere()

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s, scope(persistence=there) as t:
            for _ in range(4):
                s.task(times, rate_limit=limit)
            await anyio.sleep(0.5)
            await t.call(limit.pause, 5)
            await anyio.sleep(20)
        # Those at 2 and 4 were void; the one at 6 was after the pause already.
        assert times.at == pytest.approx([0, 6, 9.5, 11.5], abs=2.1)
        assert all(at >= 5.5 for at in times.at[1:])
        assert len(times.at) == 4

    run(main)


async def seconds_later(outcome: object) -> float:
    return 3


def not_async(outcome: object) -> object:
    return seconds_later(outcome)


def none_at_all(outcome: object) -> object:
    raise KeyError(outcome)


@pytest.mark.parametrize(
    ("retry_after", "error", "text"),
    [
        (not_async, TypeError, "retry_after must be a function that is not async"),
        (lambda outcome: "3", TypeError, "what retry_after returns must be"),
        (lambda outcome: -3, ValueError, "what retry_after returns must be"),
        (none_at_all, KeyError, ""),
    ],
)
def test_an_error_of_retry_after_is_raised_and_keeps_that_of_the_call(
    run: Run,
    store: CountingStore,
    retry_after: Callable[[object], Any],
    error: type[Exception],
    text: str,
) -> None:
    limit = RateLimit("api", rate=10, burst=10, retry_after=retry_after)

    async def fail() -> None:
        raise TooManyError

    async def in_a_block() -> None:
        async with limit.acquire():
            raise TooManyError

    async def main() -> None:
        async with scope(persistence=store) as s:
            results = [
                await s.task(fail, rate_limit=limit),
                await s.task(limit.call, fail),
                await s.task(in_a_block),
            ]
            for result in results:
                assert isinstance(result.error, error)
                assert text in str(result.error)
                assert isinstance(result.error.__context__, TooManyError)
            assert isinstance((await s.task(limit.call, anyio.sleep, 0)).error, error)
        assert "pause" not in store.requests

    run(main)


def test_an_error_or_a_value_asks_the_whole_fleet_to_pause(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, burst=10, retry_after=seconds_of)
    there = store.elsewhere()

    async def main() -> None:
        times = Times()

        async def fail() -> None:
            raise TooManyError

        async def answer() -> TooManyError:
            return TooManyError()

        async with scope(persistence=store) as s, scope(persistence=there) as t:
            with pytest.raises(TooManyError):
                await s.call(fail, rate_limit=limit)
            await t.call(times, rate_limit=limit)
            with pytest.raises(TooManyError):
                await s.call(limit.call, fail)
            await t.call(times, rate_limit=limit)
            await s.call(answer, rate_limit=limit)
            await t.call(times, rate_limit=limit)
            await s.call(limit.call, answer)
            await t.call(times, rate_limit=limit)

            async def block() -> None:
                async with limit.acquire():
                    raise TooManyError

            with pytest.raises(TooManyError):
                await s.call(block)
            await t.call(times, rate_limit=limit)
        gaps = [later - earlier for earlier, later in zip(times.at, times.at[1:], strict=False)]
        assert times.at[0] >= 3
        assert min(gaps) >= 3
        assert store.requests["pause"] == 5

    run(main)


def test_a_longer_pause_stays_as_it_is(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10, wait=0)

    async def main() -> None:
        async with scope(persistence=store):
            await limit.pause(10)
            await limit.pause(1)
            assert (await limit.state()).paused_for == 10
            with pytest.raises(ValueError, match="seconds must be more than 0 seconds"):
                await limit.pause(0)

    run(main)


def test_a_process_pauses_though_the_store_fails(run: Run, store: CountingStore) -> None:
    unplugged = UnpluggableStore(store)
    limit = RateLimit("api", rate=10, burst=10, local_share=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=unplugged):
            await limit.call(times)
            unplugged.unplug()
            with pytest.raises(StoreConnectionError):
                await limit.pause(5)
            await limit.call(times)
        assert times.at[0] == 0
        assert times.at[1] >= 5

    run(main)


@pytest.mark.parametrize("by_another_process", [False, True])
def test_a_pause_that_the_store_has_told_of_holds_while_it_fails(
    run: Run, store: CountingStore, *, by_another_process: bool
) -> None:
    limit = RateLimit("api", rate=100, burst=20, local_share=1)
    unpluggable = UnpluggableStore(store)

    async def main() -> None:
        times = Times()
        async with scope(persistence=unpluggable):
            await limit.pause(10, store.elsewhere() if by_another_process else None)
            with pytest.raises(RateLimitExceededError):
                async with limit.acquire(wait=0):
                    pytest.fail("it is paused")
            unpluggable.unplug()
            for _ in range(3):
                await limit.call(times)
        assert times.at == [pytest.approx(at, abs=0.002) for at in (10.01, 10.02, 10.03)]

    run(main)


def test_a_pause_that_the_store_did_not_take_is_told_as_soon_as_it_answers(
    run: Run, store: CountingStore
) -> None:
    """Nobody goes before its end: neither this process nor, from then on, another one."""
    unplugged = UnpluggableStore(store)
    limit = RateLimit("api", rate=10, burst=10)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store.elsewhere()) as other, scope(persistence=unplugged) as s:
            unplugged.unplug()
            with pytest.raises(StoreConnectionError):
                await limit.pause(5)
            await anyio.sleep(2)
            unplugged.plug_in()
            s.task(limit.call, times)
            await anyio.sleep(1)
            other.task(limit.call, times)
        assert len(times.at) == 2
        assert min(times.at) >= 5
        assert store.requests["pause"] == 1

    run(main)
