"""The policy of a circuit breaker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from attrs import field, frozen

from gogoscope.durations import seconds
from gogoscope.persistence.validation import check_count, check_key

Errors = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


def _reset_timeout(value: float | timedelta) -> float:
    return seconds("reset_timeout", value)


def _refresh_interval(value: float | timedelta) -> float:
    return seconds("refresh_interval", value)


@frozen(kw_only=True, eq=False)
class CircuitBreaker:
    """Stops calling what keeps failing, in the whole fleet: a frozen policy with a shared state.

    Make one for each dependency, at module level, and pass it to scopes or tasks. The state lives
    in the scope's store under ``name``; what is counted there is counted for every process.

    :param name: the circuit; the name of the scope that uses the policy if left out
    :param failure_threshold: failures that open the circuit: in a row (a success sets the count
        to 0), or within ``window``
    :param reset_timeout: seconds that the circuit stays open before it is half-open
    :param success_threshold: probes that must succeed, while half-open, to close the circuit
    :param window: seconds within which failures count; ``None`` counts failures in a row
    :param half_open_probes: calls let through at a time, in the whole fleet, while half-open
    :param record: errors that are failures: exception types, or a predicate of the error. Timeouts
        of the task and of a try always are; cancellation never is.
    :param ignore: errors that count as nothing, though ``record`` covers them
    :param max_reset_timeout: the longest open time; each time a probe fails the open time doubles
        up to it. ``None`` keeps it at ``reset_timeout``.
    :param quorum: processes that must have reported failures before the circuit opens
    :param refresh_interval: seconds after which a process looks in the background at what the
        others did
    :param on_state_change: called as ``on_state_change(name, old, new)``
    """

    name: str | None = field(default=None, kw_only=False)
    failure_threshold: int = 5
    reset_timeout: float = field(default=30.0, converter=_reset_timeout)
    success_threshold: int = 1
    window: float | timedelta | None = None
    half_open_probes: int = 1
    record: Errors = Exception
    ignore: Errors = ()
    max_reset_timeout: float | timedelta | None = None
    quorum: int = 1
    refresh_interval: float = field(default=1.0, converter=_refresh_interval)
    on_state_change: Callable[[str, str, str], object] | None = None

    def __attrs_post_init__(self) -> None:
        if self.name is not None:
            check_key(self.name, "name")
        for count in ("failure_threshold", "success_threshold", "half_open_probes", "quorum"):
            check_count(count, getattr(self, count))
        for duration in ("window", "max_reset_timeout"):
            value = getattr(self, duration)
            if value is not None:
                object.__setattr__(self, duration, seconds(duration, value))
        if self.max_reset_timeout is not None and self._longest_open() < self.reset_timeout:
            raise ValueError(
                f"max_reset_timeout must be at least reset_timeout ({self.reset_timeout:g}), "
                f"got {self.max_reset_timeout!r}"
            )
        for errors in ("record", "ignore"):
            _check_errors(errors, getattr(self, errors))

    def counts(self, error: Exception) -> bool:
        """Tell whether an error of a call is a failure of what was called."""
        return _matches(self.record, error) and not _matches(self.ignore, error)

    def open_ms(self, open_count: int) -> int:
        """Give how long the circuit opens after it opened ``open_count`` times in a row, in ms."""
        if self.max_reset_timeout is None:
            return round(self.reset_timeout * 1000)
        doubled = self.reset_timeout * 2.0 ** min(open_count, 30)
        return round(min(self._longest_open(), doubled) * 1000)

    def window_ms(self) -> int | None:
        """Give the window in milliseconds, or ``None`` for failures in a row."""
        if self.window is None:
            return None
        assert isinstance(self.window, float)
        return round(self.window * 1000)

    def _longest_open(self) -> float:
        assert isinstance(self.max_reset_timeout, float)
        return self.max_reset_timeout


def _check_errors(name: str, errors: Errors) -> None:
    if callable(errors) and not isinstance(errors, type):
        return
    for kind in errors if isinstance(errors, tuple) else (errors,):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(
                f"{name} must be exception types or a function of the error, got {errors!r}"
            )


def _matches(errors: Errors, error: Exception) -> bool:
    if isinstance(errors, type | tuple):
        return isinstance(error, errors)
    return errors(error)
