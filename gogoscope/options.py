"""Options of scopes and tasks: what they may be, and the errors for what they may not."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from gogoscope.cancellation import checkpoint_if_cancelled
from gogoscope.circuit_breaker import CircuitBreaker
from gogoscope.retry import Retry
from gogoscope.task import callable_name

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


def surely_not_awaitable(fn: Callable[..., object]) -> bool:
    """Tell whether a function can be known, without calling it, to give no awaitable."""
    return isinstance(fn, types.FunctionType) and (
        inspect.isasyncgenfunction(fn)
        or (
            inspect.isgeneratorfunction(fn)
            and not fn.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
        )
    )


def refusal(fn: object) -> TypeError:
    """Give the error for what cannot be a task's function, which shows what can."""
    if inspect.iscoroutine(fn):
        name = fn.__name__
        fn.close()
        return TypeError(
            f"s.task takes a function and its arguments, got a coroutine object of {name!r}; "
            f"write s.task({name}, *args)"
        )
    if callable(fn):
        return TypeError(
            f"{callable_name(fn)} is a generator function, which gives no awaitable; "
            "run a function that is not async with s.thread(fn, *args)"
        )
    return TypeError(
        f"s.task takes a function and its arguments, got {fn!r} of type {type(fn).__name__}; "
        "write s.task(fn, *args)"
    )


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
