"""Options of scopes and tasks: what they may be, and the errors for what they may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from gogoscope.retry import Retry
from gogoscope.scopes import doors

if TYPE_CHECKING:
    from gogoscope.circuit_breakers.breaker import CircuitBreaker

RetryOption: TypeAlias = Retry | int | None
CircuitOption: TypeAlias = "CircuitBreaker | Literal[False] | None"


def retry_option(option: RetryOption) -> Retry | None:
    """Return the policy of an option ``retry=``, or ``None`` if there is none."""
    return None if option is None or option is False else Retry.of(option)


def circuit_option(option: CircuitOption) -> CircuitBreaker | None:
    """Return the policy of an option ``circuit_breaker=``, or ``None`` if there is none."""
    if option is None or option is False:
        return None
    return doors.check_circuit_breaker(option)
