"""The options of a circuit breaker, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Attribute, evolve, field, fields, frozen
from attrs.validators import optional

from gogoscope._core.arguments import count, observer
from gogoscope._core.callables import refuse_async
from gogoscope._core.durations import duration, to_seconds, to_seconds_or_none
from gogoscope._core.forks import process_name
from gogoscope._core.matching import Errors, errors, is_asked_for, matches
from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    FailureReport,
)
from gogoscope.persistence.validation import check_key

RATE_WINDOW = 60.0
"""The window of a rate, in seconds, if none is given."""

SHORTEST_LEASE = 1.0
"""The shortest lease of a probe, in seconds."""


def _key(instance: object, attribute: Attribute[Any], value: Any) -> None:
    check_key(value, attribute.name)


def _rate(instance: object, attribute: Attribute[Any], value: Any) -> None:
    name = attribute.name
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be more than 0 and at most 1, got {value!r}")


@frozen(kw_only=True, eq=False)
class CircuitPolicy:
    """The options of a :class:`~gogoscope.CircuitBreaker`, which explains them."""

    name: str | None = field(default=None, kw_only=False, validator=optional(_key))
    failure_threshold: int = field(default=5, validator=count())
    reset_timeout: float = field(default=30.0, converter=to_seconds, validator=duration())
    success_threshold: int = field(default=1, validator=count())
    window: float | None = field(
        default=None, converter=to_seconds_or_none, validator=optional(duration())
    )
    failure_rate: float | None = field(default=None, validator=optional(_rate))
    slow_call: float | None = field(
        default=None, converter=to_seconds_or_none, validator=optional(duration())
    )
    slow_rate: float | None = field(default=None, validator=optional(_rate))
    minimum_calls: int = field(default=10, validator=count())
    half_open_probes: int = field(default=1, validator=count())
    record: Errors = field(default=Exception, validator=errors)
    ignore: Errors = field(default=(), validator=errors)
    record_result: Callable[[Any], bool] | None = field(default=None, validator=observer)
    max_reset_timeout: float | None = field(
        default=None, converter=to_seconds_or_none, validator=optional(duration())
    )
    quorum: int = field(default=1, validator=count())
    refresh_interval: float = field(default=1.0, converter=to_seconds, validator=duration())
    on_state_change: Callable[[str, str, str], object] | None = field(
        default=None, validator=observer
    )

    def __attrs_post_init__(self) -> None:
        if self.max_reset_timeout is not None and self.max_reset_timeout < self.reset_timeout:
            raise ValueError(
                f"max_reset_timeout must be at least reset_timeout ({self.reset_timeout:g}), "
                f"got {self.max_reset_timeout!r}"
            )
        self._check_rates()
        if self._judges_rates and self.window is None:
            object.__setattr__(self, "window", RATE_WINDOW)

    @property
    def _judges_rates(self) -> bool:
        """Whether rates open the circuit, instead of a count of failures."""
        return self.failure_rate is not None or self.slow_rate is not None

    @property
    def _lease(self) -> float:
        """For how many seconds a probe is claimed; it is renewed while its call runs."""
        return max(SHORTEST_LEASE, self.reset_timeout)

    @property
    def _plain(self) -> bool:
        """Whether every call that returns is a success, whatever it returns and how late."""
        return not self._judges_rates and self.record_result is None

    def _counts(self, error: Exception) -> bool:
        """Return whether an error of a call is a failure of what was called."""
        counts = is_asked_for(self.record, error) and matches("record", self.record, error)
        return bool(counts) and not matches("ignore", self.ignore, error)

    def _fails(self, value: object) -> bool:
        """Return whether the value of a call is a failure of what was called."""
        if self.record_result is None:
            return False
        failed = self.record_result(value)
        refuse_async("record_result", self.record_result, failed)
        return bool(failed)

    def _open_ms(self, open_count: int) -> int:
        """Return for how many milliseconds the circuit opens.

        :param open_count: how many times in a row it has opened before
        """
        if self.max_reset_timeout is None:
            return round(self.reset_timeout * 1000)
        doubled = self.reset_timeout * 2.0 ** min(max(open_count, 0), 30)
        return round(min(self.max_reset_timeout, doubled) * 1000)

    def _window_ms(self) -> int | None:
        """Return the window in milliseconds, or ``None`` for failures in a row."""
        return None if self.window is None else round(self.window * 1000)

    def _limited(self, state: CircuitBreakerState) -> CircuitBreakerState:
        """Return a circuit that is open no longer than this policy has it, whoever opened it."""
        if state.state != "open" or state.since_ms is None:
            return state
        until_ms = state.since_ms + self._open_ms(state.open_count - 1)
        return evolve(state, open_until_ms=min(state.open_until_ms or 0, until_ms))

    def _report(
        self, count: int, open_count: int, quorum: int, seen_window_ms: int | None = None
    ) -> FailureReport:
        """Return a report of failures for the store.

        :param count: the number of failures
        :param open_count: how many times in a row the circuit has opened
        :param quorum: how many processes must have reported failures before it opens
        :param seen_window_ms: when the window began that this process has seen to its end
        """
        return FailureReport(
            reporter=process_name(),
            count=count,
            # A process reports once that its rates are too high, and one report is enough.
            threshold=1 if self._judges_rates else self.failure_threshold,
            open_ms=self._open_ms(open_count),
            window_ms=self._window_ms(),
            quorum=quorum,
            seen_window_ms=seen_window_ms,
        )

    def _is_slow(self, took: float) -> bool:
        """Return whether a call took too long, in seconds."""
        return self.slow_call is not None and took > self.slow_call

    def _check_rates(self) -> None:
        if (self.slow_rate is None) != (self.slow_call is None):
            raise ValueError(
                "slow_call (seconds after which a call is slow) and slow_rate (the share of slow "
                f"calls that opens the circuit) go together, got slow_call={self.slow_call!r} and "
                f"slow_rate={self.slow_rate!r}"
            )
        defaults = fields(type(self))
        if not self._judges_rates and self.minimum_calls != defaults.minimum_calls.default:
            raise ValueError(
                "minimum_calls is only for failure_rate and slow_rate, and neither is given"
            )
        if self._judges_rates and self.failure_threshold != defaults.failure_threshold.default:
            raise ValueError(
                "failure_threshold counts failures, failure_rate and slow_rate judge shares of "
                f"calls: give one or the other, got failure_threshold={self.failure_threshold!r}"
            )
