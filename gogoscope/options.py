"""Options of scopes and tasks: what they may be, and the errors for what they may not."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from gogoscope.cancellation import checkpoint_if_cancelled
from gogoscope.circuit_breaker import CircuitBreaker
from gogoscope.retry import Retry

if TYPE_CHECKING:
    from gogoscope.events import Event

T = TypeVar("T")

RetryOption = Retry | int | None
CircuitOption = CircuitBreaker | Literal[False] | None
OnError = Callable[[Exception], object]
OnEvent = Callable[["Event"], object]


def retry_option(option: RetryOption) -> Retry | None:
    """Give the policy of an option ``retry=``, or ``None`` if there is none."""
    return None if option is None or option is False else Retry.of(option)


def circuit_option(option: CircuitOption) -> CircuitBreaker | None:
    """Give the policy of an option ``circuit_breaker=``, or ``None`` if there is none."""
    if option is None or option is False:
        return None
    if not isinstance(option, CircuitBreaker):
        raise TypeError(
            "circuit_breaker must be a CircuitBreaker, or False to switch it off, "
            f"got {option!r} of type {type(option).__name__}"
        )
    return option


def check_observer(name: str, observer: object) -> None:
    """Refuse what cannot be called as an observer, or would have to be awaited.

    :raises TypeError: naming the argument
    """
    if observer is not None and (not callable(observer) or inspect.iscoroutinefunction(observer)):
        raise TypeError(
            f"{name} must be a function that is not async, or None, got {observer!r} "
            f"of type {type(observer).__name__}"
        )


def check_name(name: object) -> None:
    """Refuse a name that is no text.

    :raises TypeError: naming the argument
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r} of type {type(name).__name__}")


def check_priority(priority: float) -> None:
    """Refuse a priority that cannot be compared.

    :raises TypeError: if it is no number
    :raises ValueError: if it is not a number (NaN)
    """
    if not isinstance(priority, int | float):
        kind = type(priority).__name__
        raise TypeError(f"priority must be a number, got {priority!r} of type {kind}")
    if math.isnan(priority):
        raise ValueError(f"priority must be a number that compares, got {priority!r}")


async def call_in_thread(fn: Callable[..., T], *args: Any) -> T:
    """Call a function in a worker thread, and let a cancellation happen when it has ended."""
    from anyio import to_thread  # noqa: PLC0415 - rarely needed

    value, error = await to_thread.run_sync(_outcome, fn, args)
    if error is not None:
        try:
            raise error
        finally:
            del error
    await checkpoint_if_cancelled()
    return cast("T", value)


def _outcome(fn: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, BaseException | None]:
    """Call a function; keep the frames of the worker thread out of its error's traceback."""
    try:
        return fn(*args), None
    except BaseException as error:  # noqa: BLE001 - raised again by who called
        return None, error
