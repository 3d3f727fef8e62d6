"""The cache for threads: one load for all callers of the fleet, in the thread of one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial, wraps
from typing import Any, ParamSpec, Protocol, TypeVar, TypeVarTuple

from gogoscope.blocking.calls import in_thread_of_caller
from gogoscope.blocking.functions import async_form, sync_function
from gogoscope.blocking.hosts import Hosts, ask
from gogoscope.cache.decorator import cached
from gogoscope.cache.policy import policy_of
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.persistence.validation import check_key
from gogoscope.scopes.scope import Scope

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CachedDecorator(Protocol):
    """Returns a function with the same arguments and results, which come from the cache."""

    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """Decorate a function that is not async."""
        ...


class BlockingCache:
    """The cache of a client; its methods are those of :class:`gogoscope.Cache`.

    :param hosts: the client
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._hosts.options.name!r}>"

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if it has none."""
        return self._ask(lambda s: s.cache.get(key, default), "get(key)")

    def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Return the value of a key and when it ends, or ``None`` if it has none.

        The parameters are those of :meth:`gogoscope.Cache.get_entry`.
        """
        return self._ask(
            lambda s: s.cache.get_entry(key, latest=latest, stale=stale), "get_entry(key)"
        )

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that have one."""
        return self._ask(lambda s: s.cache.get_many(keys), "get_many(keys)")

    def set(
        self,
        key: str,
        value: Any,
        ttl: float | timedelta | None = None,
        *,
        if_absent: bool = False,
        stale: float | timedelta = 0,
    ) -> bool:
        """Set the value of a key, for ``ttl`` seconds or for ever.

        :param if_absent: whether to leave a key alone that has a value, in one atomic step
        :param stale: for how many seconds after its time ``get_entry(key, stale=True)`` still
            returns it
        :returns: whether the value was set; without ``if_absent`` it always is
        """
        return self._ask(
            lambda s: s.cache.set(key, value, ttl, if_absent=if_absent, stale=stale),
            "set(key, value)",
        )

    def set_many(self, values: Mapping[str, Any], ttl: float | timedelta | None = None) -> None:
        """Set the values of many keys, each for ``ttl`` seconds or for ever."""
        self._ask(lambda s: s.cache.set_many(values, ttl), "set_many(values)")

    def touch(self, key: str, ttl: float | timedelta | None = None) -> bool:
        """Let the value of a key end ``ttl`` seconds from now, or never; ``False`` without one."""
        return self._ask(lambda s: s.cache.touch(key, ttl), "touch(key)")

    def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value."""
        return self._ask(lambda s: s.cache.delete(key), "delete(key)")

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many keys, whether or not they have a value."""
        self._ask(lambda s: s.cache.delete_many(keys), "delete_many(keys)")

    def has(self, key: str) -> bool:
        """Return whether a key has a value in the store, ``None`` included."""
        return self._ask(lambda s: s.cache.has(key), "has(key)")

    def clear(self) -> None:
        """Remove every key below the store's prefix; locks and circuit breakers stay."""
        self._ask(lambda s: s.cache.clear(), "clear()")

    def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, in no particular order.

        :param pattern: which keys, as a case-sensitive glob over whole keys
        """
        return self._ask(lambda s: s.cache.keys(pattern), "keys()")

    def get_or_set(
        self,
        key: str,
        fn: Callable[[*Ts], T],
        ttl: float | timedelta | None,
        *args: *Ts,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        negative_ttl: float | timedelta | None = None,
        lease: float | timedelta = 10,
    ) -> T:
        """Return the value of a key, or what ``fn(*args)`` returns, kept for ``ttl`` seconds.

        Of all callers in the fleet, one calls the function, in its own thread; the others wait for
        its value. A refresh within ``stale_while_revalidate``, which nobody waits for, calls it in
        a worker thread. The parameters and errors are those of
        :meth:`gogoscope.Cache.get_or_set`.
        """
        sync_function(fn, "get_or_set")
        check_key(key)
        policy_of(ttl, stale_while_revalidate, stale_if_error, negative_ttl, lease)
        load = async_form(fn, *args)
        return self._ask(
            lambda s: s.cache.get_or_set(
                key,
                load,
                ttl,
                stale_while_revalidate=stale_while_revalidate,
                stale_if_error=stale_if_error,
                negative_ttl=negative_ttl,
                lease=lease,
            ),
            "get_or_set(key, fn, ttl)",
        )

    def _ask(self, work: Callable[[Scope], Awaitable[T]], usage: str) -> T:
        return ask(self._hosts, work, f"db.cache.{usage}")


def cached_by(hosts: Hosts, ttl: float | timedelta | None, **options: Any) -> CachedDecorator:
    """Return what keeps the results of a function in the cache of a client."""
    keep = cached(None, ttl, **options)

    def decorate(fn: Callable[P, T], /) -> Callable[P, T]:
        sync_function(fn, "db.cached")

        @wraps(fn)
        async def load(*args: P.args, **kwargs: P.kwargs) -> T:
            return await in_thread_of_caller(partial(fn, *args, **kwargs))

        look_up = keep(load)

        @wraps(fn)
        def from_cache(*args: P.args, **kwargs: P.kwargs) -> T:
            call = partial(look_up, *args, **kwargs)
            return ask(hosts, lambda _: call(), "a function of @db.cached", "@s.cached")

        return from_cache

    return decorate
