"""Functions and other callables: their names, and errors for what cannot be called."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from anyio import to_thread

from gogoscope._core.cancellation import checkpoint_if_cancelled

T = TypeVar("T")


def check_function(fn: object) -> None:
    """Refuse what cannot be the function of a task.

    :raises TypeError: showing what to write instead
    """
    if not callable(fn) or surely_not_awaitable(fn):
        raise refusal(fn, "s.task")


def surely_not_awaitable(fn: Callable[..., object]) -> bool:
    """Return whether it is certain, without calling it, that a function returns no awaitable."""
    return isinstance(fn, types.FunctionType) and (
        inspect.isasyncgenfunction(fn)
        or (
            inspect.isgeneratorfunction(fn)
            and not fn.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
        )
    )


def refusal(fn: object, taker: str) -> TypeError:
    """Return the error for something that is not an async function; it shows what to write.

    :param fn: what was passed; a coroutine object is closed
    :param taker: the method that it was passed to
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
            f"{callable_name(fn)} is a generator function, which returns no awaitable; "
            "run a function that is not async with s.thread(fn, *args)"
        )
    return TypeError(
        f"{taker} takes a function and its arguments, got {fn!r} of type {type(fn).__name__}; "
        f"write {taker}(fn, *args)"
    )


def callable_name(fn: object) -> str:
    """Return the name of a function, of the function in a partial, or of the type of a callable."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None)
    return name if isinstance(name, str) else type(fn).__qualname__


class NotAwaitableError(TypeError):
    """A function that was passed to ``s.task`` did not return an awaitable."""


async def call_in_thread(fn: Callable[..., T], *args: Any) -> T:
    """Call a function in a worker thread; a cancellation takes effect when the thread has ended."""
    value, error = await to_thread.run_sync(_outcome, fn, args)
    if error is not None:
        try:
            raise error
        finally:
            del error
    await checkpoint_if_cancelled()
    return cast("T", value)


def _outcome(fn: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, BaseException | None]:
    """Call a function, and keep the frames of the worker thread out of the traceback."""
    try:
        return fn(*args), None
    except BaseException as error:  # noqa: BLE001 - raised again by the caller
        return None, error


def stable_name(fn: object) -> str:
    """Return the module and qualified name of a function: the same in every process.

    The functions of a script are named after its file, since every script is ``__main__``.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    named = fn if inspect.isroutine(fn) else type(fn)
    namespace = getattr(fn, "__globals__", None)
    if namespace is None:
        namespace = vars(sys.modules.get(named.__module__, sys))
    return f"{_module_name(str(named.__module__), namespace)}.{callable_name(fn)}"


def name_of_code(code: types.CodeType, namespace: Mapping[str, Any]) -> str:
    """Return the module and qualified name of running code, as :func:`stable_name` does."""
    module = _module_name(str(namespace.get("__name__", "?")), namespace)
    return f"{module}.{code.co_qualname}"


def _module_name(module: str, namespace: Mapping[str, Any]) -> str:
    if module not in ("__main__", "__mp_main__"):
        return module
    script = str(namespace.get("__file__", module))
    return os.path.splitext(os.path.basename(script))[0]  # noqa: PTH119, PTH122 - costs less
