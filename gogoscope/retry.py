"""Retries: the delays, the policy and the loop."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar, TypeVarTuple

import anyio
from attrs import field, frozen
from attrs.validators import optional

from gogoscope._core.arguments import check_count, count, observer
from gogoscope._core.callables import async_function, explain_misuse, is_misuse
from gogoscope._core.cancellation import error_of_call
from gogoscope._core.clock import monotonic
from gogoscope._core.durations import duration, seconds, to_seconds, to_seconds_or_none
from gogoscope._core.errors import ErrorChain, is_a
from gogoscope._core.jitter import uniform
from gogoscope._core.matching import ErrorTypes, errors, is_asked_for, matches
from gogoscope.events import notify
from gogoscope.exceptions import CircuitOpenError, RateLimitExceededError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_USAGE = "retry.call({}, *args)"


class Delay(Protocol):
    """How long to wait after a failed attempt.

    A delay that depends on earlier waits also has a method ``start``, which returns the delays of
    one call.
    """

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Return the seconds to wait after attempt ``attempt`` (from 1), which raised ``error``."""
        ...


def _factor(factor: float) -> float:
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise TypeError(f"factor must be a number, got {factor!r} of type {type(factor).__name__}")
    if not 1 <= factor < float("inf"):
        raise ValueError(f"factor must be 1 or more and finite, got {factor!r}")
    return float(factor)


@frozen
class fixed:  # noqa: N801 - written like a function: delay=fixed(1)
    """Wait the same time after every attempt.

    :param delay: seconds, 0 or more
    """

    delay: float = field(converter=to_seconds, validator=duration(zero=True))

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Return the wait, which is always the same."""
        return self.delay


@frozen
class linear:  # noqa: N801 - likewise
    """Wait ``base`` seconds after the first attempt, and ``step`` seconds longer each time.

    :param base: seconds after the first attempt
    :param step: seconds added each time; ``base`` if left out
    :param maximum: the longest wait in seconds
    """

    base: float = field(default=0.1, converter=to_seconds, validator=duration(zero=True))
    step: float | None = field(
        default=None, converter=to_seconds_or_none, validator=optional(duration(zero=True))
    )
    maximum: float = field(default=30.0, converter=to_seconds, validator=duration(infinite=True))

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Return the wait after attempt ``attempt``."""
        step = self.base if self.step is None else self.step
        return min(self.maximum, self.base + step * (attempt - 1))


@frozen
class exponential:  # noqa: N801 - likewise
    """Wait exponentially longer, with full jitter.

    The wait is drawn evenly between 0 and ``base * factor ** (attempt - 1)``, at most
    ``maximum``: "Exponential Backoff And Jitter", Marc Brooker, AWS Architecture Blog, 2015.

    :param base: the longest wait after the first attempt, in seconds
    :param factor: by how much it grows each time, 1 or more
    :param maximum: the longest wait of all, in seconds
    :param jitter: ``False`` waits the longest time each time
    """

    base: float = field(default=0.1, converter=to_seconds, validator=duration())
    factor: float = field(default=2.0, converter=_factor)
    maximum: float = field(default=30.0, converter=to_seconds, validator=duration())
    jitter: bool = field(default=True, kw_only=True)

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Return a wait after attempt ``attempt``."""
        try:
            longest = min(self.maximum, self.base * self.factor ** (attempt - 1))
        except OverflowError:
            longest = self.maximum
        return uniform(0, longest) if self.jitter else longest


@frozen
class decorrelated:  # noqa: N801 - likewise
    """Wait with decorrelated jitter: between ``base`` and three times the last wait.

    "Exponential Backoff And Jitter", Marc Brooker, AWS Architecture Blog, 2015. Each call that is
    retried starts again at ``base``; many calls may use one policy at a time.

    :param base: the shortest wait, in seconds
    :param maximum: the longest wait, in seconds
    """

    base: float = field(default=0.1, converter=to_seconds, validator=duration())
    maximum: float = field(default=30.0, converter=to_seconds, validator=duration())

    def start(self) -> Delay:
        """Return the delays of one call, which remember the last wait."""
        last = self.base

        def delay(attempt: int, error: Exception, /) -> float:
            nonlocal last
            last = min(self.maximum, uniform(self.base, last * 3))
            return last

        return delay

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Return a wait as a separate call would have it after ``attempt`` attempts."""
        delay = self.start()
        for number in range(1, attempt):
            delay(number, error)
        return delay(attempt, error)


OnRetry = Callable[[int, Exception, float], object]
RetryOn = ErrorTypes | Callable[[Exception], "bool | float | timedelta"]


def _to_delay(delay: Delay | float | timedelta) -> Delay:
    if isinstance(delay, type):
        raise TypeError(
            "delay must be a number of seconds or a function of (attempt, error), "
            f"got the class {delay.__name__}; write {delay.__name__}(...)"
        )
    return delay if callable(delay) else fixed(delay)


@frozen(kw_only=True)
class Retry:
    """When a failed call is retried, and after how long.

    :param attempts: the number of attempts, the first one included
    :param delay: seconds between attempts, or a function of (attempt, error) that returns them
    :param retry_on: exception types, or a predicate of the error; a predicate that returns a
        number of seconds sets the delay as well (a ``Retry-After`` header, for example)
    :param on_retry: called as ``on_retry(attempt, error, delay)`` before each wait
    :param max_elapsed: seconds from the start of the first attempt after which none starts
    :param attempt_timeout: seconds that each attempt may take; then it fails with ``TimeoutError``

    A :class:`CircuitOpenError` is retried only if ``retry_on`` names it, or is a predicate that
    asks for it. So is a :class:`RateLimitExceededError`, after its ``retry_after``, a
    :class:`RunError` and a :class:`JobVersionError`. The error of the last attempt is the result;
    the earlier ones are in its ``__context__``.
    """

    attempts: int = field(default=3, kw_only=False, validator=count())
    delay: Delay = field(factory=exponential, converter=_to_delay)
    retry_on: RetryOn = field(default=Exception, validator=errors)
    on_retry: OnRetry | None = field(default=None, validator=observer)
    max_elapsed: float | None = field(
        default=None, converter=to_seconds_or_none, validator=optional(duration(infinite=True))
    )
    attempt_timeout: float | None = field(
        default=None, converter=to_seconds_or_none, validator=optional(duration(infinite=True))
    )

    @classmethod
    def of(cls, option: Retry | int) -> Retry:
        """Return the policy of an option ``retry=``: itself, or a number of attempts.

        :raises TypeError: if it is neither
        :raises ValueError: if the number is less than 1
        """
        if isinstance(option, Retry):
            return option
        if isinstance(option, bool) or not isinstance(option, int):
            raise TypeError(
                "retry must be a Retry, a number of attempts, or False to switch it off, "
                f"got {option!r}"
            )
        return _of_attempts(check_count("retry", option))

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T:
        """Call a function, retry it if it fails, and return its value.

        That the caller is cancelled is never retried, nor is a call with arguments that ``fn`` does
        not take.

        :param fn: an async function, or any that returns an awaitable
        :param args: its positional arguments
        :raises TypeError: if ``fn`` is not a function, or does not take these arguments
        :raises TaskCancelled: if the last attempt ended with a cancellation nobody asked for
        :raises Exception: the error of the last attempt
        """
        if self.attempt_timeout is not None:
            fn = async_function(fn, _USAGE)
            return await self._repeat(None, self._bounded, fn, *args)
        # What _repeat does, without the cost of one more coroutine for each call.
        started = None if self.max_elapsed is None else monotonic()
        awaitable: Any = fn
        try:
            awaitable = fn(*args)
            value: T = await awaitable
        except BaseException as raised:
            error = error_of_call(raised)
            if error is None:
                raise
            if is_misuse(error):
                explain_misuse(fn, awaitable, _USAGE)
        else:
            return value
        further = self._try_again(started, error, None, fn, args)
        del error, awaitable  # they are not kept through all further attempts
        return await further

    async def _bounded(self, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T:
        """Call a function once, for at most ``attempt_timeout`` seconds.

        :raises AttemptTimeoutError: if it takes longer
        """
        assert self.attempt_timeout is not None
        with anyio.move_on_after(self.attempt_timeout) as attempt:
            return await fn(*args)
        assert attempt.cancelled_caught
        raise AttemptTimeoutError(f"an attempt took longer than {self.attempt_timeout:g} s")

    async def _repeat(
        self, tell: OnRetry | None, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts
    ) -> T:
        """Call a function until it succeeds or the policy gives up; without ``attempt_timeout``.

        :param tell: called as ``on_retry`` is
        """
        started = None if self.max_elapsed is None else monotonic()
        try:
            return await fn(*args)
        except BaseException as raised:
            error = error_of_call(raised)
            if error is None:
                raise
        further = self._try_again(started, error, tell, fn, args)
        del error  # it is not kept through all further attempts
        return await further

    async def _try_again(
        self,
        started: float | None,
        error: Exception,
        tell: OnRetry | None,
        fn: Callable[..., Awaitable[T]],
        args: tuple[object, ...],
    ) -> T:
        delay: Delay | None = None
        chain = ErrorChain(error)
        try:
            for attempt in itertools.count(1):
                if attempt >= self.attempts:
                    break
                try:
                    hint = self._retries(error)
                    if hint is False:
                        break
                    delay = delay or self._start_delay()
                    wait = (
                        _checked("delay", delay(attempt, error))
                        if hint is True
                        else _checked("retry_on", hint)
                    )
                except Exception as wrong:
                    chain.add(wrong)
                    raise
                if self._too_late(started, wait):
                    break
                notify(self.on_retry, attempt, error, wait)
                notify(tell, attempt, error, wait)
                await pause(wait)
                if self._too_late(started):
                    break
                try:
                    return await fn(*args)
                except BaseException as raised:
                    failure = error_of_call(raised)
                    if failure is None:
                        raise
                    chain.add(failure)
                    error = failure
                    del failure
            raise error
        finally:
            chain.end()
            del error, chain

    def _too_late(self, started: float | None, wait: float = 0.0) -> bool:
        if started is None:
            return False
        assert self.max_elapsed is not None
        return monotonic() + wait - started > self.max_elapsed

    def _start_delay(self) -> Delay:
        start: Callable[[], Delay] | None = getattr(self.delay, "start", None)
        return self.delay if start is None else start()

    def _retries(self, error: Exception) -> bool | float | timedelta:
        if is_misuse(error) or not is_asked_for(self.retry_on, error):
            return False
        if is_a(error, CircuitOpenError) and isinstance(self.retry_on, type | tuple):
            kinds = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
            return any(issubclass(kind, CircuitOpenError) for kind in kinds)
        answer = matches("retry_on", self.retry_on, error)
        if answer is True and is_a(error, RateLimitExceededError):
            return error.retry_after
        return answer


@functools.lru_cache(maxsize=64)
def _of_attempts(attempts: int) -> Retry:
    return Retry(attempts)


async def pause(delay: float) -> None:
    """Wait between two attempts; a test may replace it."""
    await anyio.sleep(delay)


class AttemptTimeoutError(TimeoutError):
    """An attempt took longer than ``attempt_timeout``."""


def _checked(source: str, wait: float | timedelta) -> float:
    return seconds(f"the delay that {source} returned", wait, zero=True)
