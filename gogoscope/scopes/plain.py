"""``s.task`` and ``s.call`` without options, as most of them are.

Python looks up the default of each option at each call, and a scope looks at each option. That may
take longer than the function that is called. So what has no options goes a way of its own, which
ends where the others do: in a task that is started.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import CO_COROUTINE
from types import FunctionType
from typing import Any, TypeVar, cast

from gogoscope._core.callables import async_function
from gogoscope._core.cancellation import checkpoint_if_cancelled
from gogoscope._core.errors import is_a
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.combinators import Combinators
from gogoscope.scopes.results import Err, Ok, Result
from gogoscope.scopes.task import Task

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _plain_task(scope: Combinators, fn: Any, args: tuple[Any, ...], shown: str) -> Task[Any]:
    """Return a task that has no options of its own, and has not begun."""
    if scope._group is None or not scope._loop.is_here():
        scope._check_open()
    if type(fn) is not FunctionType or not fn.__code__.co_flags & CO_COROUTINE:
        fn = async_function(fn, shown)
    nets = scope._safety_nets() if scope._own_nets is None else scope._own_nets[0]
    guard = None if nets is None or scope._cancelling else nets.guard()
    return Task(scope, fn, args, None, guard, None)


def quick_task(with_options: F) -> F:
    """Let ``s.task`` start at once what has no options."""

    @wraps(with_options)
    def task(self: Combinators, fn: Any, /, *args: Any, **options: Any) -> Any:
        if options:
            return with_options(self, fn, *args, **options)
        return self._start(_plain_task(self, fn, args, "s.task({}, *args)"))

    return cast("F", task)


def quick_call(with_options: F) -> F:
    """Let ``s.call`` run at once what has no options, inside its caller if it may run there."""

    @wraps(with_options)
    async def call(self: Combinators, fn: Any, /, *args: Any, **options: Any) -> Any:
        if options:
            return await with_options(self, fn, *args, **options)
        task, rest = _plain_task(self, fn, args, "s.call({}, *args)"), None
        try:
            rest = self._start_here(task)
            if rest is not None:
                await rest
            if type(task._result) is Ok:
                return task._result.value
            return await value_of(task._result_for_reader())
        finally:
            task._awaiters = 0
            del task, rest  # an error keeps this frame

    return cast("F", call)


async def value_of(result: Result[T]) -> T:
    """Return the value of a task that the caller ran, or raise its error."""
    try:
        if isinstance(result, Err):
            if is_a(result._unread, TaskCancelled):
                await checkpoint_if_cancelled()  # that of the caller goes before its echo
            result.unwrap()
        return result.value
    finally:
        del result  # its error keeps this frame
