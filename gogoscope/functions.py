"""What can be called for an awaitable, and what to say of what cannot."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable

from gogoscope.task import callable_name


def check_function(fn: object) -> None:
    """Refuse what cannot be a task's function.

    :raises TypeError: showing what can
    """
    if not callable(fn) or surely_not_awaitable(fn):
        raise refusal(fn, "s.task")


def surely_not_awaitable(fn: Callable[..., object]) -> bool:
    """Tell whether a function can be known, without calling it, to give no awaitable."""
    return isinstance(fn, types.FunctionType) and (
        inspect.isasyncgenfunction(fn)
        or (
            inspect.isgeneratorfunction(fn)
            and not fn.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
        )
    )


def refusal(fn: object, taker: str) -> TypeError:
    """Give the error for what is no async function, which shows what to write.

    :param fn: what was given; a coroutine object is closed
    :param taker: the method that it was given to
    """
    if inspect.iscoroutine(fn):
        name = fn.__name__
        fn.close()
        return TypeError(
            f"{taker} takes a function and its arguments, got a coroutine object of {name!r}; "
            f"write {taker}({name}, *args)"
        )
    if callable(fn):
        return TypeError(
            f"{callable_name(fn)} is a generator function, which gives no awaitable; "
            "run a function that is not async with s.thread(fn, *args)"
        )
    return TypeError(
        f"{taker} takes a function and its arguments, got {fn!r} of type {type(fn).__name__}; "
        f"write {taker}(fn, *args)"
    )
