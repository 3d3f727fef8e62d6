"""Options of scopes and tasks: what they may be, and what is inherited.

``None`` stands for an option that was left out, which is inherited; ``False`` switches a retry, a
circuit breaker or a rate limit off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from attrs import field, frozen

from gogoscope._core.arguments import (
    check_count,
    check_flag,
    check_name,
    check_observer,
    check_priority,
)
from gogoscope._core.background import Home
from gogoscope._core.durations import seconds
from gogoscope._core.slots import Slots
from gogoscope.events import OnError, OnEvent
from gogoscope.scopes import doors
from gogoscope.scopes.pipeline import Around, SafetyNets

if TYPE_CHECKING:
    from gogoscope.circuit_breakers.breaker import CircuitBreaker
    from gogoscope.rate_limits.limit import RateLimit
    from gogoscope.retry import Retry

RetryOption: TypeAlias = "Retry | int | None"
CircuitOption: TypeAlias = "CircuitBreaker | Literal[False] | None"
RateOption: TypeAlias = "RateLimit | Literal[False] | None"

Off: TypeAlias = Literal[False]


def _timeout(option: float | timedelta | None) -> float | None:
    return None if option is None else seconds("timeout", option, infinite=True)


def _retry(option: RetryOption) -> Retry | Off | None:
    return option if option is None or option is False else doors.retry(option)


def _circuit_breaker(option: CircuitOption) -> CircuitBreaker | Off | None:
    return option if option is None or option is False else doors.check_circuit_breaker(option)


def _rate_limit(option: RateOption) -> RateLimit | Off | None:
    return option if option is None or option is False else doors.check_rate_limit(option)


def _slots(concurrency: int | Slots | None) -> Slots | None:
    if concurrency is None or isinstance(concurrency, Slots):
        return concurrency
    return Slots(check_count("concurrency", concurrency))


@frozen(kw_only=True, eq=False, repr=False)
class ScopeOptions:
    """The options of :func:`gogoscope.scope`, which explains them, checked."""

    name: str | Callable[[], str]
    timeout: float | None = field(default=None, converter=_timeout)
    slots: Slots | None = field(default=None, alias="concurrency", converter=_slots)
    retry: Retry | Off | None = field(default=None, converter=_retry)
    circuit_breaker: CircuitBreaker | Off | None = field(default=None, converter=_circuit_breaker)
    rate_limit: RateLimit | Off | None = field(default=None, converter=_rate_limit)
    persistence: object = None
    fail_fast: bool = False
    on_exit: Literal["wait", "cancel"] = "wait"
    inline: bool = True
    on_error: OnError | None = None
    on_event: OnEvent | None = None

    def __attrs_post_init__(self) -> None:
        if self.on_exit not in ("wait", "cancel"):
            raise ValueError(f"on_exit must be 'wait' or 'cancel', got {self.on_exit!r}")
        check_flag("fail_fast", self.fail_fast)
        check_flag("inline", self.inline)
        if not callable(self.name):
            check_name(self.name)
        if self.on_error is not None:
            check_observer("on_error", self.on_error)
        if self.on_event is not None:
            check_observer("on_event", self.on_event)

    @classmethod
    def inside(
        cls,
        parent: ScopeOptions,
        store: object,
        *,
        concurrency: int | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
        persistence: object = None,
        inline: bool | None = None,
        on_event: OnEvent | None = None,
        **own: Any,
    ) -> Self:
        """Return the options of a scope inside another, which inherits some of that one's.

        :param parent: the options of the scope around
        :param store: the store of the scope around
        :param own: the options that are not inherited
        """
        return cls(
            concurrency=parent.slots if concurrency is None else concurrency,
            retry=parent.retry if retry is None else retry,
            circuit_breaker=parent.circuit_breaker if circuit_breaker is None else circuit_breaker,
            rate_limit=parent.rate_limit if rate_limit is None else rate_limit,
            persistence=store if persistence is None else persistence,
            inline=parent.inline if inline is None else inline,
            on_event=parent.on_event if on_event is None else on_event,
            **own,
        )


@frozen(eq=False, repr=False)
class TaskOptions:
    """The options of a task that are inherited from its scope, checked."""

    timeout: float | None = field(default=None, converter=_timeout)
    retry: Retry | Off | None = field(default=None, converter=_retry)
    circuit_breaker: CircuitBreaker | Off | None = field(default=None, converter=_circuit_breaker)
    priority: float = 0
    rate_limit: RateLimit | Off | None = field(default=None, converter=_rate_limit)

    def __attrs_post_init__(self) -> None:
        if self.priority != 0:
            check_priority(self.priority)

    def safety_nets(
        self, scope: ScopeOptions, home: Home, around: Around | None = None
    ) -> SafetyNets | None:
        """Return what surrounds such a task in a scope, ``None`` if nothing does.

        :param around: what runs all attempts

        :raises CapabilityNotSupportedError: if the scope's store keeps no circuit breakers, or no
            rate limits
        """
        timeout = None if self.timeout == math.inf else self.timeout
        retry = scope.retry if self.retry is None else self.retry
        breaker = scope.circuit_breaker if self.circuit_breaker is None else self.circuit_breaker
        circuit = doors.circuit(home, breaker) if breaker else None
        rate = scope.rate_limit if self.rate_limit is None else self.rate_limit
        limiter = doors.limiter(home, rate) if rate else None
        if (timeout, scope.slots, retry or None, circuit, limiter, around) == (None,) * 6:
            return None
        return SafetyNets(
            timeout, scope.slots, self.priority, around, retry or None, circuit, limiter
        )
