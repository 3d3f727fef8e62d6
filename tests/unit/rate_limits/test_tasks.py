"""``rate_limit=`` of scopes and tasks: where it stands among the other options."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import (
    CapabilityNotSupportedError,
    CircuitBreaker,
    CircuitOpenError,
    Persistence,
    RateLimit,
    RateLimitExceededError,
    Retry,
    scope,
)
from gogoscope.persistence.records.locks import RecordLocks
from gogoscope.stores import MemoryStore
from tests.unit.rate_limits.conftest import CountingStore, Run
from tests.unit.rate_limits.times import Times


def test_every_kind_of_task_takes_a_rate_limit(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            await s.task(times, rate_limit=limit)
            await s.call(times, rate_limit=limit)
            await s.map(times, [1, 2], rate_limit=limit)
            async for _ in s.as_completed(times, [1], rate_limit=limit):
                pass
            async for _ in s.resume("rows", times, [1], rate_limit=limit):
                pass
            assert times.at == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
            began = times.now()
            assert (await s.thread(lambda: 7, rate_limit=limit)).value == 7
            assert times.now() >= began + 0.09

    run(main)


def test_a_scope_passes_its_limit_on_and_false_switches_it_off(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=10)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store, rate_limit=limit) as s:
            await s.task(times)
            async with s.child() as inner:
                await inner.task(times)
            async with s.lock("key") as locked:
                await locked.task(times)
            await s.task(times, rate_limit=False)
            async with s.child(rate_limit=False) as inner:
                await inner.task(times)
            await s.task(times, rate_limit=RateLimit("another", rate=10))
        assert times.at == [0, 0.1, 0.2, 0.2, 0.2, 0.2]

    run(main)


def test_each_attempt_is_counted(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10)

    async def main() -> None:
        times = Times()

        async def fail() -> None:
            await times()
            raise OSError("broken")

        async with scope(persistence=store) as s:
            result = await s.task(fail, retry=Retry(3, delay=0.001), rate_limit=limit)
            assert isinstance(result.error, OSError)
        assert times.at == [0, 0.1, 0.2]

    run(main)


def test_waiting_is_no_part_of_the_time_of_an_attempt(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1)

    async def main() -> None:
        async with scope(persistence=store) as s:
            tasks = [
                s.task(anyio.sleep, 0.05, retry=Retry(1, attempt_timeout=0.1), rate_limit=limit)
                for _ in range(3)
            ]
            for task in tasks:
                (await task).unwrap()

    run(main)


def test_a_timeout_of_the_task_bounds_the_wait(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            await s.task(times, rate_limit=limit)
            late = await s.task(times, rate_limit=limit, timeout=0.5)
            assert isinstance(late.error, TimeoutError)
            await s.task(times, rate_limit=limit)
        # Its place was the last one, and was returned.
        assert times.at == [0, 1]

    run(main)


def test_waiting_keeps_the_slot(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=10)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store, concurrency=1) as s:
            s.task(times, rate_limit=limit)
            s.task(times, rate_limit=limit)
            s.task(times)
        assert times.at == [0, 0.1, 0.1]

    run(main)


def test_waiting_is_neither_slow_nor_a_failure_to_a_circuit_breaker(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=1)
    slow = CircuitBreaker("slow", slow_call=0.5, slow_rate=0.1, minimum_calls=1)
    failing = CircuitBreaker("failing", failure_threshold=1)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            for breaker in (slow, slow, slow, failing):
                await s.call(times, rate_limit=limit, circuit_breaker=breaker)
            refusing = RateLimit("api", rate=1, wait=0)
            for _ in range(3):
                result = await s.task(times, rate_limit=refusing, circuit_breaker=failing)
                assert isinstance(result.error, RateLimitExceededError)
            timed_out = await s.task(times, rate_limit=limit, circuit_breaker=failing, timeout=0.1)
            assert isinstance(timed_out.error, TimeoutError)
            states = [(await breaker.state()).state for breaker in (slow, failing)]
        assert states == ["closed", "closed"]

    run(main)


def test_a_circuit_breaker_counts_refusals_if_it_is_asked_to(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=1, wait=0)
    breaker = CircuitBreaker("api", failure_threshold=1, record=RateLimitExceededError)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            await s.task(times, rate_limit=limit, circuit_breaker=breaker)
            refused = await s.task(times, rate_limit=limit, circuit_breaker=breaker)
            assert isinstance(refused.error, RateLimitExceededError)
            assert (await breaker.state()).state == "open"

    run(main)


def test_a_rejected_call_takes_no_place(run: Run, store: CountingStore) -> None:
    limit = RateLimit("api", rate=1)
    breaker = CircuitBreaker("api")

    async def main() -> None:
        times = Times()
        async with scope(persistence=store) as s:
            await breaker.force_open()
            rejected = await s.task(times, rate_limit=limit, circuit_breaker=breaker)
            assert isinstance(rejected.error, CircuitOpenError)
            assert not store.requests["reserve"]

    run(main)


def test_a_refusal_is_retried_only_if_asked_for_and_after_its_time(
    run: Run, store: CountingStore
) -> None:
    limit = RateLimit("api", rate=2, wait=0)

    async def main() -> None:
        times = Times()
        async with scope(persistence=store, rate_limit=limit) as s:
            await s.task(times)
            refused = await s.task(times, retry=Retry(5, delay=0.001))
            assert isinstance(refused.error, RateLimitExceededError)
            for asked in (RateLimitExceededError, (OSError, RateLimitExceededError)):
                await s.call(times, retry=Retry(5, delay=100, retry_on=asked))
            await s.call(times, retry=Retry(5, delay=100, retry_on=lambda error: True))
            await s.call(times, retry=Retry(5, delay=100, retry_on=lambda error: 0.75))
        assert times.at == pytest.approx([0, 0.5, 1, 1.5, 2.25], abs=0.01)

    run(main)


def test_a_store_without_rate_limits_is_told(run: Run) -> None:
    async def main() -> None:
        locks: Any = RecordLocks(MemoryStore()._records)
        async with scope(persistence=Persistence(locks=locks)) as s:
            with pytest.raises(CapabilityNotSupportedError, match="does not support rate_limits"):
                s.task(anyio.sleep, 0, rate_limit=RateLimit("api", rate=1))

    run(main)
