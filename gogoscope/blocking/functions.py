"""Functions of users that are not async, and what calls them from the loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gogoscope._core.callables import callable_name, told
from gogoscope.blocking.calls import in_thread_of_caller

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def sync_function(fn: F, usage: str) -> F:
    """Return a function that is not async.

    :param usage: what it was passed to
    :raises TypeError: if it is async, or no function
    """
    if not callable(fn):
        if inspect.iscoroutine(fn):
            fn.close()
        raise TypeError(f"{usage} takes a function, got {told(fn)}")
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise _refusal(fn, usage)
    return fn


def async_form(fn: Callable[..., T], *args: Any) -> Callable[[], Coroutine[Any, Any, T]]:
    """Return what calls a function in the thread that waits for it."""

    def call() -> T:
        value = fn(*args)
        if inspect.iscoroutine(value):
            value.close()
            raise _refusal(fn, "gogoscope.blocking")
        return value

    async def run() -> T:
        return await in_thread_of_caller(call)

    return run


def _refusal(fn: object, usage: str) -> TypeError:
    return TypeError(
        f"{usage} takes a function that is not async, but {callable_name(fn)} is async; call it in "
        "a scope: await s.call(fn, *args)"
    )
