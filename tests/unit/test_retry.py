"""Retries: policy, delays, loop."""

from __future__ import annotations

import gc
import math
import pickle
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gogoscope
from gogoscope import (
    CircuitOpenError,
    Retry,
    TaskCancelled,
    decorrelated,
    exponential,
    fixed,
    linear,
    scope,
)
from gogoscope.testing import instant_retries

anyio_test = pytest.mark.anyio
ERROR = ValueError("any")


class Flaky:
    """Fails a number of times, then returns 42."""

    def __init__(self, failures: int, make: Callable[[int], Exception] = lambda n: ValueError(n)):
        self.calls = 0
        self._failures = failures
        self._make = make

    async def __call__(self) -> int:
        self.calls += 1
        await anyio.sleep(0)
        if self.calls <= self._failures:
            raise self._make(self.calls)
        return 42


@anyio_test
@pytest.mark.parametrize("retry", [3, Retry(3, delay=0), Retry(attempts=3, delay=fixed(0))])
async def test_attempts_counts_all_tries(retry: Any) -> None:
    enough, too_few = Flaky(2), Flaky(3)
    async with scope(retry=retry) as s:
        assert (await s.task(enough)).unwrap() == 42
        err, _ = await s.task(too_few)
    assert (enough.calls, too_few.calls) == (3, 3)
    assert err is not None
    assert err.args == (3,)


@anyio_test
async def test_earlier_errors_are_reachable_from_the_last() -> None:
    async with scope() as s:
        err, _ = await s.task(Flaky(9), retry=Retry(4, delay=0))
    numbers = []
    error: BaseException | None = err
    while error is not None:
        numbers.append(error.args[0])
        error = error.__context__
    assert numbers == [4, 3, 2, 1]


@anyio_test
async def test_an_error_that_is_raised_by_every_try_makes_no_circle_of_contexts() -> None:
    error = ValueError("the same")
    async with scope() as s:
        err, _ = await s.task(Flaky(9, lambda n: error), retry=Retry(4, delay=0))
    assert err is error
    assert error.__context__ is None


@anyio_test
async def test_errors_that_are_linked_already_make_no_circle_of_contexts() -> None:
    first = ValueError(1)

    def make(number: int) -> Exception:
        if number == 1:
            return first
        error = ValueError(number)
        error.__context__ = first if number == 4 else None
        return error

    async with scope() as s:
        err, _ = await s.task(Flaky(9, make), retry=Retry(4, delay=0))
    numbers: list[int] = []
    error: BaseException | None = err
    while error is not None and len(numbers) < 9:
        numbers.append(error.args[0])
        error = error.__context__
    assert numbers == [4, 3, 2, 1]


@anyio_test
async def test_the_errors_of_tries_are_never_compared() -> None:
    compared = 0

    class ComparedError(ValueError):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = ValueError.__hash__

    async with scope() as s:
        err, _ = await s.task(Flaky(1001, ComparedError), retry=Retry(1000, delay=0))
    assert compared == 0
    assert isinstance(err, ComparedError)


def bad_hint(error: Exception) -> Any:
    raise KeyError("broken")


@anyio_test
@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"retry_on": bad_hint}, KeyError, "broken"),
        ({"retry_on": lambda error: None}, TypeError, "delay that retry_on returned"),
        ({"delay": lambda attempt, error: bad_hint(error)}, KeyError, "broken"),
        ({"delay": lambda attempt, error: -1}, ValueError, "delay that delay returned"),
        ({"delay": lambda attempt, error: math.nan}, ValueError, "delay that delay returned"),
        ({"delay": lambda attempt, error: "1"}, TypeError, "delay that delay returned"),
    ],
)
async def test_an_error_of_the_policy_keeps_the_error_of_the_try(
    options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    async with scope() as s:
        err, _ = await s.task(Flaky(1), retry=Retry(3, **options))
    assert isinstance(err, kind)
    assert text in str(err)
    assert isinstance(err.__context__, ValueError)


@anyio_test
async def test_a_predicate_that_raises_the_error_itself_changes_nothing() -> None:
    def raise_it(error: Exception) -> bool:
        raise error

    async with scope() as s:
        err, _ = await s.task(Flaky(1), retry=Retry(3, retry_on=raise_it))
    assert isinstance(err, ValueError)
    assert err.__cause__ is None
    assert err.__context__ is None


@anyio_test
async def test_no_try_starts_after_max_elapsed_when_a_delay_took_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    async def overslept(delay: float) -> None:
        nonlocal now
        now += 10

    monkeypatch.setattr("gogoscope.retry.monotonic", lambda: now)
    monkeypatch.setattr("gogoscope.retry.pause", overslept)
    flaky = Flaky(9)
    async with scope() as s:
        _ = (await s.task(flaky, retry=Retry(5, delay=1, max_elapsed=5))).error
    assert flaky.calls == 1


@anyio_test
async def test_retry_on_takes_types_and_predicates() -> None:
    async with scope() as s:
        cases: list[tuple[Any, int]] = [
            (OSError, 1),
            (ValueError, 3),
            ((KeyError, ValueError), 3),
            (lambda error: error.args[0] < 2, 2),
        ]
        for retry_on, calls in cases:
            flaky = Flaky(5)
            _ = (await s.task(flaky, retry=Retry(3, delay=0, retry_on=retry_on))).error
            assert flaky.calls == calls, retry_on


@anyio_test
async def test_a_predicate_that_returns_seconds_sets_the_delay() -> None:
    waits: list[float] = []
    async with scope() as s:
        _ = (
            await s.task(
                Flaky(2),
                retry=Retry(
                    3,
                    delay=fixed(100),
                    retry_on=lambda error: 0 if error.args == (1,) else timedelta(seconds=0.001),
                    on_retry=lambda attempt, error, delay: waits.append(delay),
                ),
            )
        ).error
    assert waits == [0, 0.001]


@anyio_test
async def test_on_retry_is_called_before_each_wait_and_its_errors_are_ignored() -> None:
    told: list[tuple[int, str, float]] = []

    def observer(attempt: int, error: Exception, delay: float) -> None:
        told.append((attempt, str(error), delay))
        raise RuntimeError("observer")

    flaky = Flaky(2)
    async with scope() as s:
        _ = (await s.task(flaky, retry=Retry(3, delay=linear(0, 0.001), on_retry=observer))).error
    assert told == [(1, "1", 0.0), (2, "2", 0.001)]


@anyio_test
async def test_no_try_starts_after_max_elapsed() -> None:
    flaky = Flaky(9)
    async with scope() as s:
        with anyio.fail_after(5):
            err, _ = await s.task(flaky, retry=Retry(9, delay=10, max_elapsed=5))
    assert isinstance(err, ValueError)
    assert flaky.calls == 1


@anyio_test
async def test_attempt_timeout_bounds_each_try() -> None:
    calls = 0

    async def slow_once() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            await anyio.sleep_forever()
        return 42

    async with scope() as s:
        result = await s.task(slow_once, retry=Retry(2, delay=0, attempt_timeout=0.01))
        assert result.unwrap() == 42
        err, _ = await s.task(anyio.sleep_forever, retry=Retry(1, attempt_timeout=0.01))
        assert isinstance(err, TimeoutError)


@anyio_test
async def test_cancellation_during_a_delay_is_immediate() -> None:
    async with scope() as s:
        task = s.task(Flaky(9), retry=Retry(2, delay=1000))
        await anyio.sleep(0.01)
        task.cancel()
        with anyio.fail_after(5):
            assert isinstance((await task).error, TaskCancelled)


@anyio_test
async def test_an_open_circuit_is_retried_only_if_retry_on_names_it() -> None:
    def open_circuit(number: int) -> Exception:
        return CircuitOpenError("payments", 0.001)

    async with scope() as s:
        cases: list[tuple[Any, int]] = [
            (Exception, 1),
            ((Exception, CircuitOpenError), 3),
            (CircuitOpenError, 3),
            (lambda error: isinstance(error, CircuitOpenError), 3),
        ]
        for retry_on, calls in cases:
            flaky = Flaky(9, open_circuit)
            _ = (await s.task(flaky, retry=Retry(3, delay=0, retry_on=retry_on))).error
            assert flaky.calls == calls, retry_on


@anyio_test
async def test_a_policy_works_without_a_scope() -> None:
    flaky = Flaky(2)
    assert await Retry(3, delay=0).call(flaky) == 42
    with pytest.raises(TimeoutError):
        await Retry(2, delay=0, attempt_timeout=0.001).call(anyio.sleep, 5)


@settings(deadline=None)
@given(st.integers(1, 5000), st.floats(0.001, 10), st.floats(1, 10), st.floats(0.001, 1000))
def test_exponential_delays_are_within_their_bounds(
    attempt: int, base: float, factor: float, maximum: float
) -> None:
    delay = exponential(base, factor, maximum)(attempt, ERROR)
    longest = exponential(base, factor, maximum, jitter=False)(attempt, ERROR)
    assert 0 <= delay <= longest <= maximum


def test_exponential_delays_grow_by_the_factor() -> None:
    delay = exponential(0.1, 3, 2, jitter=False)
    assert [delay(attempt, ERROR) for attempt in (1, 2, 3, 4)] == pytest.approx([0.1, 0.3, 0.9, 2])


def test_linear_and_fixed_delays() -> None:
    delay = linear(1, 2, maximum=4)
    assert [delay(attempt, ERROR) for attempt in (1, 2, 3)] == [1, 3, 4]
    assert linear(2)(3, ERROR) == 6
    assert fixed(timedelta(seconds=2))(7, ERROR) == 2


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 5), min_size=2, max_size=2, unique=True))
def test_decorrelated_delays_depend_on_the_last_one_of_their_own_call(bounds: list[float]) -> None:
    base, maximum = sorted(bounds)
    policy = decorrelated(base, maximum)
    first, second = policy.start(), policy.start()
    last = base
    for attempt in range(1, 20):
        wait = first(attempt, ERROR)
        assert base <= wait <= min(maximum, max(last * 3, base))
        last = wait
    assert base <= second(1, ERROR) <= min(maximum, base * 3)
    assert base <= policy(5, ERROR) <= maximum


@pytest.mark.parametrize(
    "delay", [fixed(1), linear(), exponential(0.2, jitter=False), decorrelated(maximum=5)]
)
def test_a_policy_is_data_that_can_be_printed_compared_and_pickled(delay: Any) -> None:
    policy = Retry(4, delay=delay)
    assert pickle.loads(pickle.dumps(policy)) == policy == Retry(4, delay=delay)
    assert policy != Retry(5, delay=delay)
    assert eval(repr(delay), dict(vars(gogoscope))) == delay
    assert repr(delay) in repr(policy)


@anyio_test
async def test_something_that_is_not_a_function_is_refused_and_not_retried() -> None:
    flaky = Flaky(0)
    with pytest.raises(TypeError, match=r"coroutine object of '.*'; write retry\.call\("):
        await Retry(3, delay=1000).call(flaky())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got 3 of type int; write retry\.call\(fn, \*args\)"):
        await Retry(3, delay=1000).call(3)  # type: ignore[arg-type]


def test_a_policy_shows_what_a_user_uses() -> None:
    shown = {name for name in dir(Retry(3)) if not name.startswith("_")}
    options = {"attempts", "delay", "retry_on", "on_retry", "max_elapsed", "attempt_timeout"}
    assert shown == {*options, "call", "of"}


def test_the_policy_of_a_number_of_attempts_is_made_once() -> None:
    assert Retry.of(3) is Retry.of(3) == Retry(3)
    policy = Retry(3)
    assert Retry.of(policy) is policy
    with pytest.raises(ValueError, match="retry must be 1 or more"):
        Retry.of(0)
    with pytest.raises(TypeError, match="retry must be a Retry, a number of attempts"):
        Retry.of(True)


def test_a_delay_class_that_was_not_called_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"got the class exponential; write exponential\(\.\.\.\)"):
        Retry(delay=exponential)  # type: ignore[arg-type]


@anyio_test
async def test_the_state_of_a_delay_never_leaks_between_calls() -> None:
    waits: list[float] = []
    retry = Retry(
        2, delay=decorrelated(0.0001, 100), on_retry=lambda attempt, error, wait: waits.append(wait)
    )
    for _ in range(50):
        await retry.call(Flaky(1))
    assert max(waits) <= 0.0003


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"attempts": 0}, ValueError, "attempts must be 1 or more"),
        ({"attempts": 2.5}, TypeError, "attempts must be an int"),
        ({"delay": -1}, ValueError, "delay must be 0 or more"),
        ({"delay": "1"}, TypeError, "delay must be a number of seconds"),
        ({"delay": math.nan}, ValueError, "delay"),
        ({"retry_on": 3}, TypeError, "retry_on must be exception types"),
        ({"retry_on": (ValueError, 3)}, TypeError, "retry_on must be exception types"),
        ({"retry_on": BaseException}, TypeError, "retry_on must be exception types"),
        ({"max_elapsed": 0}, ValueError, "max_elapsed must be more than 0"),
        ({"attempt_timeout": -1}, ValueError, "attempt_timeout must be more than 0"),
        ({"tries": 3}, TypeError, "tries"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Retry(**options)


@pytest.mark.parametrize("factor", [0.5, math.nan, math.inf, "2", True])
def test_a_bad_factor_is_refused(factor: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="factor must be"):
        exponential(factor=factor)


class Attempt:
    """What an attempt holds in a local variable."""


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_many_attempts_keep_the_last_ten_errors_and_count_the_others(backend: Any) -> None:
    attempts = 5_000
    made = 0
    kept: list[weakref.ref[Attempt]] = []

    async def poll() -> None:
        nonlocal made
        attempt = Attempt()
        made += 1
        kept.append(weakref.ref(attempt))
        if made % 500 == 0:
            gc.collect()
            kept[:] = [known for known in kept if known() is not None]
            assert len(kept) == 11  # and this one
        raise ConnectionError(made)

    with instant_retries(), pytest.raises(ConnectionError) as caught:
        anyio.run(Retry(attempts, delay=0).call, poll, backend=backend)
    chain: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(error)
        error = error.__context__
    assert [error.args for error in chain] == [(attempts - n,) for n in range(10)]
    assert chain[-1].__notes__ == [
        f"before this, {attempts - 10} attempts failed whose errors are not kept"
    ]


@anyio_test
async def test_what_the_errors_of_attempts_lead_to_is_kept_with_them() -> None:
    async def fail() -> None:
        try:
            raise KeyError
        except KeyError as error:
            raise ValueError("again") from error

    with pytest.raises(ValueError, match="again") as caught:
        await Retry(30, delay=0).call(fail)
    kinds = []
    error: BaseException | None = caught.value
    while error is not None:
        kinds.append(type(error))
        error = error.__context__
    assert kinds == [ValueError, KeyError] * 10


@anyio_test
async def test_attempts_that_raise_one_error_again_and_again_end_with_it() -> None:
    errors = [ValueError(number) for number in range(3)]
    numbers = iter(range(1000))

    async def fail() -> None:
        raise errors[next(numbers) % 3]

    with pytest.raises(ValueError, match="0") as caught:
        await Retry(100, delay=0).call(fail)
    assert caught.value is errors[0]
    seen = set()
    error: BaseException | None = caught.value
    while error is not None:
        assert error not in seen
        seen.add(error)
        error = error.__context__
