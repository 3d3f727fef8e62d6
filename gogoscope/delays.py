"""How long to wait between tries: policies that are data, to be printed, compared and pickled."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from attrs import field, frozen

from gogoscope.durations import seconds


class Delay(Protocol):
    """How long to wait after a failed try.

    One that depends on earlier waits has a method ``start`` as well, which gives the delays of one
    call.
    """

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Give the seconds to wait after try number ``attempt`` (from 1), which gave ``error``."""
        ...


def _delay_or_zero(value: float | timedelta) -> float:
    return seconds("delay", value, zero=True)


def _base(value: float | timedelta) -> float:
    return seconds("base", value)


def _base_or_zero(value: float | timedelta) -> float:
    return seconds("base", value, zero=True)


def _step(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds("step", value, zero=True)


def _maximum(value: float | timedelta) -> float:
    return seconds("maximum", value)


def _maximum_or_endless(value: float | timedelta) -> float:
    return seconds("maximum", value, infinite=True)


def _factor(factor: float) -> float:
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise TypeError(f"factor must be a number, got {factor!r} of type {type(factor).__name__}")
    if not 1 <= factor < float("inf"):
        raise ValueError(f"factor must be 1 or more and finite, got {factor!r}")
    return float(factor)


@frozen
class fixed:  # noqa: N801 - written like a function: delay=fixed(1)
    """Wait the same time after every try.

    :param delay: seconds, 0 or more
    """

    delay: float = field(converter=_delay_or_zero)

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Give the wait, which is always the same."""
        return self.delay


@frozen
class linear:  # noqa: N801 - likewise
    """Wait ``base`` seconds after the first try and ``step`` longer after each further one.

    :param base: seconds after the first try
    :param step: seconds added each time; ``base`` if left out
    :param maximum: the longest wait in seconds
    """

    base: float = field(default=0.1, converter=_base_or_zero)
    step: float | None = field(default=None, converter=_step)
    maximum: float = field(default=30.0, converter=_maximum_or_endless)

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Give the wait after try number ``attempt``."""
        step = self.base if self.step is None else self.step
        return min(self.maximum, self.base + step * (attempt - 1))


@frozen
class exponential:  # noqa: N801 - likewise
    """Wait exponentially longer, with full jitter.

    The wait is drawn evenly between 0 and ``base * factor ** (attempt - 1)``, at most
    ``maximum``: "Exponential Backoff And Jitter", Marc Brooker, AWS Architecture Blog, 2015.

    :param base: the longest wait after the first try, in seconds
    :param factor: by how much it grows each time, 1 or more
    :param maximum: the longest wait of all, in seconds
    :param jitter: ``False`` waits the longest time each time
    """

    base: float = field(default=0.1, converter=_base)
    factor: float = field(default=2.0, converter=_factor)
    maximum: float = field(default=30.0, converter=_maximum)
    jitter: bool = field(default=True, kw_only=True)

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Give a wait after try number ``attempt``."""
        try:
            longest = min(self.maximum, self.base * self.factor ** (attempt - 1))
        except OverflowError:
            longest = self.maximum
        return _uniform(0, longest) if self.jitter else longest


@frozen
class decorrelated:  # noqa: N801 - likewise
    """Wait with decorrelated jitter: each wait is drawn between ``base`` and thrice the last one.

    "Exponential Backoff And Jitter", Marc Brooker, AWS Architecture Blog, 2015. Every call that is
    retried starts anew; one policy may serve many calls at a time.

    :param base: the shortest wait, in seconds
    :param maximum: the longest wait, in seconds
    """

    base: float = field(default=0.1, converter=_base)
    maximum: float = field(default=30.0, converter=_maximum)

    def start(self) -> Delay:
        """Give the delays of one call, which remember the last wait."""
        last = self.base

        def delay(attempt: int, error: Exception, /) -> float:
            nonlocal last
            last = min(self.maximum, _uniform(self.base, last * 3))
            return last

        return delay

    def __call__(self, attempt: int, error: Exception, /) -> float:
        """Give a wait as it would be after ``attempt`` tries of a call of its own."""
        delay = self.start()
        for number in range(1, attempt):
            delay(number, error)
        return delay(attempt, error)


def _uniform(low: float, high: float) -> float:
    import random  # noqa: PLC0415 - only needed when something fails; costs much of our import

    return random.uniform(low, high)  # noqa: S311 - jitter is no secret
