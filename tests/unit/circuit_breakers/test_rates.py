"""Rates: the share of a process's calls that failed or were slow, and what it trips."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gogoscope import CircuitBreaker, CircuitOpenError, scope
from gogoscope.circuit_breakers.rates import BUCKETS, RateWindow
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock

calls = st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.booleans()), max_size=200)


@settings(deadline=None)
@given(calls)
def test_a_window_holds_the_calls_of_its_last_seconds_and_a_tenth_at_most_is_missing(
    made: list[tuple[float, bool, bool]],
) -> None:
    window = RateWindow(10.0)
    now = 0.0
    times: list[tuple[float, bool, bool]] = []
    for pause, failed, slow in made:
        now += pause
        window.add(now, failed=failed, slow=slow)
        times.append((now, failed, slow))
        surely = [call for call in times if call[0] > now - 9]
        possibly = [call for call in times if call[0] > now - 10.0001]
        assert len(surely) <= window.calls <= len(possibly)
        assert sum(c[1] for c in surely) <= window.failures <= sum(c[1] for c in possibly)
        assert sum(c[2] for c in surely) <= window.slow <= sum(c[2] for c in possibly)
        assert len(window._buckets) <= BUCKETS


def test_no_rate_is_judged_with_fewer_than_the_minimum_of_calls() -> None:
    window = RateWindow(60)
    for number in range(9):
        window.add(number, failed=True, slow=True)
        assert window.excess(10, 0.5, 0.5) == 0
    window.add(9, failed=True, slow=True)
    assert window.excess(10, 0.5, 0.5) == 10


@pytest.mark.parametrize(
    ("failures", "slow", "excess"), [(4, 4, 0), (5, 0, 5), (0, 8, 8), (5, 8, 8), (4, 7, 0)]
)
def test_the_excess_is_the_worse_of_the_rates_that_are_reached(
    failures: int, slow: int, excess: int
) -> None:
    window = RateWindow(60)
    for number in range(10):
        window.add(0, failed=number < failures, slow=number < slow)
    assert window.excess(10, 0.5, 0.8) == excess
    window.clear()
    assert window.excess(1, 0.5, 0.8) == 0


class Service:
    """Takes ``seconds``, then fails if ``error`` is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.calls += 1
        await anyio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return "fine"


def run(main: Any) -> None:
    for backend in ("asyncio", "trio"):
        VirtualClock(1_800_000_000).run(main, backend=backend)


def test_a_failure_rate_opens_the_circuit_even_with_successes_in_between() -> None:
    async def main() -> None:
        breaker = CircuitBreaker("payments", failure_rate=0.5, minimum_calls=10)
        service = Service()
        store = MemoryStore()
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            for number in range(10):
                service.error = OSError("broken") if number % 2 else None
                _ = (await s.task(service)).error
            err, _ = await s.task(service)
            assert isinstance(err, CircuitOpenError)
        state = await breaker.state(store)
        assert (state.state, state.failure_count) == ("open", 5)
        assert service.calls == 10

    run(main)


def test_calls_older_than_the_window_count_for_no_rate() -> None:
    async def main() -> None:
        breaker = CircuitBreaker("payments", failure_rate=0.5, minimum_calls=4, window=10)
        service = Service()
        async with scope(persistence=MemoryStore(), circuit_breaker=breaker) as s:
            for _ in range(20):
                service.error = OSError("broken")
                for _ in range(2):
                    err, _ = await s.task(service)
                    assert isinstance(err, OSError)
                await anyio.sleep(11)

    run(main)


def test_calls_from_before_the_circuit_opened_count_for_no_rate_after_it_closed() -> None:
    async def main() -> None:
        breaker = CircuitBreaker("payments", failure_rate=0.5, minimum_calls=5)
        service = Service()
        service.error = OSError("broken")
        store = MemoryStore()
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            for _ in range(4):
                _ = (await s.task(service)).error
            await breaker.force_open(store)
            await breaker.force_close(store)
            for _ in range(4):
                assert isinstance((await s.task(service)).error, OSError)

    run(main)


@pytest.mark.parametrize("raises", [False, True])
def test_slow_calls_open_the_circuit_whether_or_not_they_fail(raises: bool) -> None:
    async def main() -> None:
        breaker = CircuitBreaker(
            "payments", slow_call=1, slow_rate=0.3, minimum_calls=10, ignore=KeyError
        )
        service = Service()
        store = MemoryStore()
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            for number in range(10):
                service.seconds = 2 if number < 3 else 0.5
                service.error = OSError("broken") if raises and number < 3 else None
                _ = (await s.task(service)).error
            err, _ = await s.task(service)
            assert isinstance(err, CircuitOpenError)
        assert (await breaker.state(store)).failure_count == 3

    run(main)


def test_a_slow_probe_does_not_close_the_circuit() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(
            "payments", slow_call=1, slow_rate=0.5, minimum_calls=1, reset_timeout=5
        )
        service = Service()
        store = MemoryStore()
        states = []
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            for seconds in (2.0, 2.0, 0.5):
                service.seconds = seconds
                assert (await s.task(service)).error is None
                await anyio.sleep(0.1)
                states.append((await breaker.state(store)).state)
                await anyio.sleep(6)
        assert states == ["open", "open", "closed"]

    run(main)


def test_the_quorum_holds_for_rates_and_each_process_reports_again() -> None:
    async def main() -> None:
        breaker = CircuitBreaker("payments", failure_rate=0.5, minimum_calls=5, quorum=2)
        service = Service()
        service.error = OSError("broken")
        store = MemoryStore()
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            for _ in range(11):
                err, _ = await s.task(service)
                assert isinstance(err, OSError)
            await anyio.sleep(0.1)
            state = await breaker.state(store)
            assert (state.state, state.failure_count, len(state.reporters)) == ("closed", 10, 1)
            await store.record_failure("payments", 10**9)
            await store.count_failures("payments", _another_process())
            await anyio.sleep(1.1)
            _ = (await s.task(service)).error
            await anyio.sleep(0.1)
            err, _ = await s.task(service)
            assert isinstance(err, CircuitOpenError)

    run(main)


def _another_process() -> Any:
    from gogoscope.persistence.protocols.circuit_breakers import FailureReport

    return FailureReport("another", 5, threshold=1, open_ms=30_000, window_ms=60_000, quorum=2)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"failure_rate": 0}, ValueError, "failure_rate must be more than 0 and at most 1, got 0"),
        ({"failure_rate": 50}, ValueError, "failure_rate must be more than 0 and at most 1"),
        ({"failure_rate": "x"}, TypeError, "failure_rate must be a number"),
        ({"failure_rate": True}, TypeError, "failure_rate must be a number"),
        ({"slow_rate": 0.5}, ValueError, "slow_call .* and slow_rate .* go together"),
        ({"slow_call": 2}, ValueError, "slow_call .* and slow_rate .* go together"),
        ({"slow_call": 0, "slow_rate": 0.5}, ValueError, "slow_call must be more than 0"),
        ({"minimum_calls": 20}, ValueError, "minimum_calls is only for failure_rate"),
        ({"minimum_calls": 0, "failure_rate": 0.5}, ValueError, "minimum_calls must be 1"),
        ({"failure_rate": 0.5, "failure_threshold": 3}, ValueError, "give one or the other"),
        ({"record_result": 3}, TypeError, "record_result must be a function"),
        ({"on_state_change": 3}, TypeError, "on_state_change must be a function"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        CircuitBreaker(**options)


def test_the_window_of_a_rate_is_a_minute_by_default() -> None:
    assert CircuitBreaker(failure_rate=0.5).window == 60
    assert CircuitBreaker(failure_rate=0.5, window=5).window == 5
    assert CircuitBreaker().window is None


def test_policies_of_one_circuit_judge_rates_by_their_own_windows(
    virtual_clock: VirtualClock,
) -> None:
    short = CircuitBreaker("service", failure_rate=0.5, minimum_calls=5, window=1)
    long = CircuitBreaker("service", failure_rate=0.5, minimum_calls=5, window=60)

    async def fail() -> None:
        raise OSError

    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s:
            for number in range(6):
                for policy in (short, long):
                    refused = (await s.task(fail, circuit_breaker=policy)).error
                    assert isinstance(refused, CircuitOpenError) is (number == 5)
                await anyio.sleep(2)

    virtual_clock.run(program)
