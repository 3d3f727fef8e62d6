"""A decorator that keeps the results of a function in a cache."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from types import FunctionType
from typing import Any, ParamSpec, Protocol, TypeVar

from gogoscope._core.callables import async_function, stable_name, told
from gogoscope._core.context import current
from gogoscope.cache.cache import Cache, cache_of
from gogoscope.cache.policy import CachePolicy
from gogoscope.persistence.bundle import Persistence
from gogoscope.persistence.default import default_home_here
from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.stores.memory import process_store

P = ParamSpec("P")
T = TypeVar("T")

_REQUIRED: Any = object()


class CachedDecorator(Protocol):
    """Returns a function with the same arguments and results, which come from the cache."""

    def __call__(self, fn: Callable[P, Awaitable[T]], /) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate an async function."""
        ...


def cached(
    cache: Cache | CacheProvider | Persistence | None = None,
    ttl: float | timedelta | None = _REQUIRED,
    *,
    key: Callable[..., str] | None = None,
    stale_while_revalidate: float | timedelta = 0,
    stale_if_error: float | timedelta = 0,
    negative_ttl: float | timedelta | None = None,
    lease: float | timedelta = 10,
) -> CachedDecorator:
    """Keep the results of an async function in a cache: ``@cached(store, 60)``.

    Calling the function is then ``get_or_set`` with a key made from its arguments; the options
    are those of :meth:`gogoscope.Cache.get_or_set`.

    :param cache: a cache, or a store to make one on; if left out, each call uses the store of its
        scope, and outside of scopes the default store of the process, or its memory
    :param ttl: how long a result is fresh, in seconds; ``None`` for ever; required
    :param key: returns the key for the function's arguments. If left out, the key is made of the
        module and qualified name of the function and of a hash of its arguments as they are passed,
        each of which must then be None, a bool, an int, a float or a str. It is required where that
        name may stand for several functions: for a lambda, a partial, a bound method, a callable
        object, and a function that uses local variables of the function around it.
    :raises TypeError: when decorating a function that requires a ``key``, if there is none, or
        what is no async function
    """
    if key is not None and not callable(key):
        raise TypeError(f"key must be a function of the arguments, got {told(key)}")
    if ttl is _REQUIRED:
        raise TypeError(
            "cached needs a ttl: @cached(store, 60) or @cached(ttl=60); None is for ever"
        )
    store = cache if isinstance(cache, Cache | None) else Cache(cache)
    policy = CachePolicy(ttl, stale_while_revalidate, stale_if_error, negative_ttl, lease)

    def decorate(fn: Callable[P, Awaitable[T]], /) -> Callable[P, Coroutine[Any, Any, T]]:
        awaited = async_function(fn, "cached(cache, ttl)({})")
        make_key = _default_key_of(fn) if key is None else key

        @functools.wraps(fn)
        async def from_cache(*args: P.args, **kwargs: P.kwargs) -> T:
            call = functools.partial(awaited, *args, **kwargs)
            chosen = _cache_here() if store is None else store
            value: T = await chosen._loading(make_key(*args, **kwargs), call, policy).value()
            return value

        return from_cache

    return decorate


def _cache_here() -> Cache:
    frame = current.get()
    home = default_home_here() if frame is None else frame._home
    if home is None:
        return Cache(process_store())
    home.check_here()
    return cache_of(home)


def _default_key_of(fn: Callable[..., object]) -> Callable[..., str]:
    inner: Any = fn
    while isinstance(inner, FunctionType) and (wrapped := getattr(inner, "__wrapped__", None)):
        inner = wrapped
    if not isinstance(inner, FunctionType) or inner.__closure__ or inner.__name__ == "<lambda>":
        raise TypeError(
            f"the name of {told(fn)} may stand for several functions, which would share their "
            "values; pass cached(..., key=...), a function of the arguments that returns a str"
        )
    return functools.partial(_default_key, fn)


def _default_key(fn: Callable[..., object], *args: object, **kwargs: object) -> str:
    named = [(f"argument {position}", arg) for position, arg in enumerate(args, 1)]
    for name, arg in [*named, *kwargs.items()]:
        if type(arg) not in _PLAIN:
            raise TypeError(
                f"{name} of {stable_name(fn)} is of type {type(arg).__name__}, from which no key "
                "can be made that is the same in every process; pass cached(..., key=...), a "
                "function of the arguments that returns a str"
            )
    parts = [repr(arg) for arg in args]
    parts += [f"{name}={arg!r}" for name, arg in sorted(kwargs.items())]
    # Hashed, since arguments may be secrets or personal data, and keys are listed and logged.
    digest = hashlib.sha256(", ".join(parts).encode()).hexdigest()
    return f"{stable_name(fn)}:{digest[:DIGITS]}"


DIGITS = 32
"""How many hexadecimal digits of the hash stand in a key."""
_PLAIN = (type(None), bool, int, float, str)
