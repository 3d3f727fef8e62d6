"""Functions and other callables: their names, and errors for what cannot be called."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar, TypeVarTuple, cast

from anyio import to_thread

from gogoscope._core.arguments import encodable, shown
from gogoscope._core.cancellation import checkpoint_if_cancelled
from gogoscope._core.errors import has_only_own_frames, is_a

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def async_function(fn: F, usage: str) -> F:
    """Return a function each of whose calls returns an awaitable.

    That is ``fn`` itself, or what calls it and checks what it returns, where it cannot be told
    without a call.

    :param usage: how the function is passed, with ``{}`` in its place: ``"s.task({}, *args)"``
    :raises TypeError: if it is certain that it never returns an awaitable; shows what to write
    """
    if type(fn) is types.FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return fn
    flags = _code_flags(fn)
    if not callable(fn) or flags & _GENERATORS:
        raise refusal(fn, usage)
    return fn if flags & _COROUTINES else cast("F", Checked(fn, usage))


def async_functions(
    fns: Iterable[Callable[[], Awaitable[T]]], usage: str
) -> list[Callable[[], Awaitable[T]]]:
    """Return functions each of whose calls returns an awaitable; :func:`async_function` of each.

    :raises TypeError: showing what to write instead; coroutine objects among them are closed
    """
    if not isinstance(fns, Iterable):
        raise TypeError(
            f"{_method(usage)} takes a list of functions, got {told(fns)}; "
            f"write {usage.format(short_name(fns))}"
        )
    found = list(fns)
    try:
        return [async_function(fn, usage) for fn in found]
    finally:
        close_coroutines(found)


_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_COROUTINES = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE


def _code_flags(fn: object) -> int:
    """Return the flags of the code that a call runs; 0 if they tell nothing of what it returns."""
    fn = _without_wrappers(fn)
    if not isinstance(fn, types.FunctionType | types.MethodType | type):
        fn = getattr(type(fn), "__call__", None)  # noqa: B004 - how it is called, not if it can be
    code = getattr(fn, "__code__", None)
    if not isinstance(code, types.CodeType):
        return 0
    flags = code.co_flags
    return flags & ~_GENERATORS if flags & inspect.CO_ITERABLE_COROUTINE else flags


class Checked:
    """A function that is checked to return an awaitable, each time that it is called."""

    __slots__ = ("_usage", "func")

    def __init__(self, fn: Callable[..., object], usage: str) -> None:
        self.func = fn
        self._usage = usage

    def __call__(self, /, *args: object, **kwargs: object) -> Awaitable[Any]:
        """Call the function.

        :raises NotAwaitableError: if it returns nothing that can be awaited
        """
        returned = self.func(*args, **kwargs)
        if inspect.isawaitable(returned):
            return returned
        raise not_awaitable(self.func, returned, self._usage)


class NotAwaitableError(TypeError):
    """A function that must return an awaitable returned something else, or the other way round."""


def is_misuse(error: Exception) -> bool:
    """Return whether an error says that a function was called wrongly, not that it failed.

    That is so if it returned no awaitable, or did not take the arguments: then the error comes
    from the call itself, before any code of the function ran.
    """
    return is_a(error, NotAwaitableError) or (
        type(error) is TypeError and has_only_own_frames(error)
    )


def not_awaitable(fn: object, value: object, usage: str) -> NotAwaitableError:
    """Return the error for a function that returned something else than an awaitable.

    :param usage: how the function was passed, with ``{}`` in its place
    """
    return NotAwaitableError(
        f"{_method(usage)} takes an async function, but {callable_name(fn)} returned "
        f"{shown(value)}, which cannot be awaited; {_in_thread(fn, usage)}"
    )


def explain_misuse(fn: object, returned: object, usage: str) -> None:
    """Raise a clearer error for a call whose error :func:`is_misuse`, if there is one.

    :param fn: what was called
    :param returned: what the call returned, or ``fn`` itself if it did not return
    :param usage: how the function was passed, with ``{}`` in its place
    :raises TypeError: if ``fn`` is no function, or returned nothing that can be awaited
    """
    if not callable(fn) or _code_flags(fn) & _GENERATORS:
        raise refusal(fn, usage) from None
    if not (returned is fn or inspect.isawaitable(returned)):
        raise not_awaitable(fn, returned, usage) from None


def refusal(fn: object, usage: str) -> TypeError:
    """Return the error for something that is not an async function; it shows what to write.

    :param fn: what was passed; a coroutine object is closed
    :param usage: how a function is passed, with ``{}`` in its place
    """
    if callable(fn):
        looping = _code_flags(fn) & inspect.CO_ASYNC_GENERATOR
        kind = "an async generator" if looping else "a generator"
        loop = f"pass an async function that loops over it: {usage.format('fn')}"
        return TypeError(
            f"{_method(usage)} takes an async function, but {callable_name(fn)} is {kind} "
            f"function, which returns no awaitable; {loop if looping else _in_thread(fn, usage)}"
        )
    if inspect.iscoroutine(fn):
        name = short_name(fn)
        takes_arguments = "*args" in usage or "items" in usage
        bound = name if takes_arguments else f"partial({name}, *args)"
        instead = f"write {usage.format(bound)}"
        fn.close()
    elif inspect.isawaitable(fn):
        instead = "it is awaited as it is"
    else:
        instead = f"write {usage.format('fn')}"
    return TypeError(f"{_method(usage)} takes a function, got {told(fn)}; {instead}")


def told(value: object) -> str:
    """Return what a message tells of something that was passed instead of something else."""
    if inspect.iscoroutine(value):
        return f"a coroutine object of {value.__name__!r}"
    if isinstance(value, types.FunctionType | types.MethodType):
        return f"the function {callable_name(value)}"
    return f"{shown(value)} of type {type(value).__name__}"


def refuse_async(name: str, fn: object, answer: object) -> None:
    """Refuse a function that was called for its answer, and turned out to be async.

    :raises TypeError: naming the argument
    """
    if inspect.isawaitable(answer):
        close_coroutines([answer])
        raise TypeError(f"{name} must be a function that is not async, got {shown(fn)}")


def close_coroutines(values: Iterable[object]) -> None:
    """Close the coroutine objects among values that were refused, so that none is warned of."""
    for value in values:
        if inspect.iscoroutine(value):
            value.close()


def _method(usage: str) -> str:
    return usage.partition("(")[0]


def _in_thread(fn: object, usage: str) -> str:
    name = short_name(fn)
    if _method(usage) == "s.task":
        return f"run {name} in a worker thread with s.thread(fn, *args)"
    bound = usage.format(f"partial(anyio.to_thread.run_sync, {name})")
    return f"run {name} in a worker thread: {bound}"


def short_name(fn: object) -> str:
    """Return the name of a function as its caller may have written it, or ``fn``."""
    if not (callable(fn) or inspect.iscoroutine(fn)):
        return "fn"
    name = callable_name(fn).rpartition(".")[2]
    return name if name.isidentifier() and not name.startswith("__") else "fn"


def _without_wrappers(fn: object) -> object:
    while isinstance(fn, functools.partial | Checked):
        fn = fn.func
    return fn


def callable_name(fn: object) -> str:
    """Return the name of a function, of the function in a partial, or of the type of a callable."""
    fn = _without_wrappers(fn)
    name = getattr(fn, "__qualname__", None)
    return name if isinstance(name, str) else type(fn).__qualname__


async def call_in_thread(fn: Callable[..., T], *args: Any) -> T:
    """Call a function in a worker thread; a cancellation takes effect when the thread has ended.

    :raises NotAwaitableError: if it returns a coroutine, which nobody would run
    """
    value, error = await to_thread.run_sync(_outcome, fn, args)
    if error is not None:
        try:
            raise error
        finally:
            del error
    if isinstance(value, Coroutine):
        value.close()
        raise NotAwaitableError(
            f"s.thread takes a function that is not async, but {callable_name(fn)} returned a "
            f"coroutine; run {short_name(fn)} with s.task(fn, *args)"
        )
    await checkpoint_if_cancelled()
    return cast("T", value)


def sync_function(fn: Callable[[*Ts], T]) -> Callable[[*Ts], T]:
    """Return a function for a worker thread.

    :raises TypeError: if it is certain that it is async; shows what to write
    """
    if callable(fn) and not _code_flags(fn) & (_COROUTINES | inspect.CO_ASYNC_GENERATOR):
        return fn
    if callable(fn) and _code_flags(fn) & inspect.CO_ASYNC_GENERATOR:
        instead = "pass an async function that loops over it: s.task(fn, *args)"
    elif callable(fn) or inspect.iscoroutine(fn):
        instead = f"run {short_name(fn)} with s.task(fn, *args)"
    else:
        instead = "write s.thread(fn, *args)"
    got = told(fn)
    close_coroutines([fn])
    raise TypeError(f"s.thread takes a function that is not async, got {got}; {instead}")


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
    fn = _without_wrappers(fn)
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
    run_as_module = getattr(namespace.get("__spec__"), "name", None)
    if run_as_module is not None:  # python -m package.module, whose file may be __main__.py
        return str(run_as_module)
    script = str(namespace.get("__file__", module))
    stem = os.path.splitext(os.path.basename(script))[0]  # noqa: PTH119, PTH122 - costs less
    return encodable(stem)
