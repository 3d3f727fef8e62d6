"""The options of a circuit breaker, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from attrs import field, fields, frozen

from gogoscope._core.arguments import check_count
from gogoscope._core.durations import seconds
from gogoscope._core.matching import Errors, check_errors, matches
from gogoscope.persistence.validation import check_key

RATE_WINDOW = 60.0
"""The window of a rate, in seconds, if none is given."""


def _reset_timeout(value: float | timedelta) -> float:
    return seconds("reset_timeout", value)


def _refresh_interval(value: float | timedelta) -> float:
    return seconds("refresh_interval", value)


@frozen(kw_only=True, eq=False)
class CircuitPolicy:
    """The options of a :class:`~gogoscope.CircuitBreaker`, which explains them.

    ``judges_rates`` tells whether rates trip the circuit instead of a count; ``plain`` whether a
    call that gives a value is a success, whatever the value and however long it took.
    """

    name: str | None = field(default=None, kw_only=False)
    failure_threshold: int = 5
    reset_timeout: float = field(default=30.0, converter=_reset_timeout)
    success_threshold: int = 1
    window: float | timedelta | None = None
    failure_rate: float | None = None
    slow_call: float | timedelta | None = None
    slow_rate: float | None = None
    minimum_calls: int = 10
    half_open_probes: int = 1
    record: Errors = Exception
    ignore: Errors = ()
    record_result: Callable[[Any], bool] | None = None
    max_reset_timeout: float | timedelta | None = None
    quorum: int = 1
    refresh_interval: float = field(default=1.0, converter=_refresh_interval)
    on_state_change: Callable[[str, str, str], object] | None = None
    judges_rates: bool = field(init=False, default=False, repr=False)
    plain: bool = field(init=False, default=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.name is not None:
            check_key(self.name, "name")
        for count in (
            "failure_threshold",
            "success_threshold",
            "minimum_calls",
            "half_open_probes",
            "quorum",
        ):
            check_count(count, getattr(self, count))
        for duration in ("window", "max_reset_timeout", "slow_call"):
            value = getattr(self, duration)
            if value is not None:
                self._set(duration, seconds(duration, value))
        if self.max_reset_timeout is not None and self._longest_open() < self.reset_timeout:
            raise ValueError(
                f"max_reset_timeout must be at least reset_timeout ({self.reset_timeout:g}), "
                f"got {self.max_reset_timeout!r}"
            )
        for errors in ("record", "ignore"):
            check_errors(errors, getattr(self, errors))
        for function in ("record_result", "on_state_change"):
            value = getattr(self, function)
            if value is not None and not callable(value):
                raise TypeError(f"{function} must be a function, got {value!r}")
        self._check_rates()
        self._set("plain", not self.judges_rates and self.record_result is None)

    def counts(self, error: Exception) -> bool:
        """Return whether an error of a call is a failure of what was called."""
        return matches(self.record, error) and not matches(self.ignore, error)

    def open_ms(self, open_count: int) -> int:
        """Return how long the circuit opens after ``open_count`` times in a row, in ms."""
        if self.max_reset_timeout is None:
            return round(self.reset_timeout * 1000)
        doubled = self.reset_timeout * 2.0 ** min(open_count, 30)
        return round(min(self._longest_open(), doubled) * 1000)

    def window_ms(self) -> int | None:
        """Return the window in milliseconds, or ``None`` for failures in a row."""
        return None if self.window is None else round(self.window_seconds() * 1000)

    def window_seconds(self) -> float:
        """Return the window of a policy that has one."""
        assert isinstance(self.window, float)
        return self.window

    @property
    def trips_at(self) -> int:
        """How many failures that the store is told of trip the circuit.

        A process whose rates are too high reports that once, and one such report is enough.
        """
        return 1 if self.judges_rates else self.failure_threshold

    def is_slow(self, took: float) -> bool:
        """Return whether a call took too long, in seconds."""
        if self.slow_call is None:
            return False
        assert isinstance(self.slow_call, float)
        return took > self.slow_call

    def _check_rates(self) -> None:
        for rate in ("failure_rate", "slow_rate"):
            if getattr(self, rate) is not None:
                _check_rate(rate, getattr(self, rate))
        if (self.slow_rate is None) != (self.slow_call is None):
            raise ValueError(
                "slow_call (seconds after which a call is slow) and slow_rate (the share of slow "
                f"calls that opens the circuit) go together, got slow_call={self.slow_call!r} and "
                f"slow_rate={self.slow_rate!r}"
            )
        defaults = fields(type(self))
        if self.failure_rate is None and self.slow_rate is None:
            if self.minimum_calls != defaults.minimum_calls.default:
                raise ValueError(
                    "minimum_calls is only for failure_rate and slow_rate, and neither is given"
                )
            return
        if self.failure_threshold != defaults.failure_threshold.default:
            raise ValueError(
                "failure_threshold counts failures, failure_rate and slow_rate judge shares of "
                f"calls: give one or the other, got failure_threshold={self.failure_threshold!r}"
            )
        self._set("judges_rates", True)
        if self.window is None:
            self._set("window", RATE_WINDOW)

    def _longest_open(self) -> float:
        assert isinstance(self.max_reset_timeout, float)
        return self.max_reset_timeout

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _check_rate(name: str, rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"{name} must be a number, got {rate!r} of type {type(rate).__name__}")
    if not 0 < rate <= 1:
        raise ValueError(f"{name} must be more than 0 and at most 1, got {rate!r}")
