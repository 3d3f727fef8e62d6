"""The cache: the operations of a store, and one load for all callers of the fleet."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar, TypeVarTuple

from attrs import evolve

from gogoscope._core.background import Home, Spawn
from gogoscope._core.callables import async_function
from gogoscope._core.interrupts import uninterrupted_methods
from gogoscope.cache.layers import Layers
from gogoscope.cache.loading import Context, Loading
from gogoscope.cache.local import LocalCache
from gogoscope.cache.policy import CachePolicy, policy_of
from gogoscope.events import CacheHit, CacheMissed
from gogoscope.persistence.asking import told
from gogoscope.persistence.bundle import Persistence, unsupported
from gogoscope.persistence.protocols.cache import CacheEntry, CacheProvider
from gogoscope.persistence.validation import check_key, check_keys, check_mapping

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

REFRESH_SECONDS = 1.0
"""How long the end of a scope waits for refreshes."""


@uninterrupted_methods
class Cache:
    """A cache on a store; ``s.cache`` is that of a scope, and it works outside of scopes, too.

    Its plain methods are those of the store, and raise what the store raises. :meth:`get_or_set`
    calls a function where there is no value, and never fails because of the store.

    :param store: keeps the values; if it is also a store of locks, or a bundle with one, a value is
        loaded once for the whole fleet, else once for each process
    :param local: keeps values for a short time in the memory of this process, too
    """

    def __init__(
        self, store: CacheProvider | Persistence, *, local: LocalCache | None = None
    ) -> None:
        bundle = Persistence.of(store)
        if bundle.cache is None:
            raise unsupported("cache", store)
        self._layers = Layers(bundle.cache, local)
        self._context = Context(self._layers, bundle.locks)

    def __repr__(self) -> str:
        return f"<Cache on {self._layers.store!r}>"

    def _hosted_by(self, home: Home, spawn: Spawn) -> Self:
        """Return this cache as a scope uses it: with its events and its background."""
        cache = copy.copy(self)
        cache._context = evolve(self._context, observer=home, spawn=spawn)
        return cache

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if it has none."""
        if self._layers.local is None and not self._context.observed():
            return await self._layers.store.get(key, default)
        entry = await self.get_entry(key)
        return default if entry is None else entry.value

    async def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Return the value of a key and when it ends, or ``None`` if it has none.

        :param latest: whether to see every write that was completed before, also where ``get``
            may miss the last ones
        :param stale: whether to return a value that is kept beyond its time, too
        """
        found = None if latest else self._layers.find(check_key(key))
        if found is not None:
            if self._context.observed():
                self._context.tell(CacheHit, key, True)
            return found
        entry = await told(self._layers.get_entry)(key, latest=latest, stale=stale)
        if self._context.observed():
            self._context.tell_found(key, entry)
        return entry

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that have one, as the store has them."""
        keys = check_keys(keys)
        values = await told(self._layers.store.get_many)(keys)
        if self._context.observed():
            for key in keys:
                if key in values:
                    self._context.tell(CacheHit, key, False)
                else:
                    self._context.tell(CacheMissed, key)
        return values

    async def set(
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
            returns it; nothing else does, but its key may still be listed
        :returns: whether the value was set; without ``if_absent`` it always is
        :raises TypeError: if the value cannot be stored faithfully; the message names the path
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        check_key(key)
        try:
            return await told(self._layers.store.set)(
                key, value, ttl, if_absent=if_absent, stale=stale
            )
        finally:
            self._layers.forget([key])

    async def set_many(
        self, values: Mapping[str, Any], ttl: float | timedelta | None = None
    ) -> None:
        """Set the values of many keys, each for ``ttl`` seconds or for ever.

        :raises TypeError: if a value cannot be stored faithfully; nothing is set then
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        keys = list(check_mapping(values))
        try:
            await told(self._layers.store.set_many)(values, ttl)
        finally:
            self._layers.forget(keys)

    async def touch(self, key: str, ttl: float | timedelta | None = None) -> bool:
        """Let the value of a key end ``ttl`` seconds from now, or never.

        :returns: ``False`` if the key has no value
        :raises ValueError: if ``ttl`` is out of range
        """
        check_key(key)
        try:
            return await told(self._layers.store.touch)(key, ttl)
        finally:
            self._layers.forget([key])

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value."""
        check_key(key)
        try:
            return await told(self._layers.store.delete)(key)
        finally:
            self._layers.forget([key])

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many keys, whether or not they have a value."""
        keys = check_keys(keys)
        try:
            await told(self._layers.store.delete_many)(keys)
        finally:
            self._layers.forget(keys)

    async def has(self, key: str) -> bool:
        """Return whether a key has a value in the store, ``None`` included."""
        return await told(self._layers.store.has)(key)

    async def clear(self) -> None:
        """Remove every key below the store's prefix; locks and circuit breakers stay."""
        try:
            await told(self._layers.store.clear)()
        finally:
            if self._layers.local is not None:
                self._layers.local.clear()

    async def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, without the store's prefix, in no particular order.

        :param pattern: which keys, as a case-sensitive glob over whole keys: ``*`` stands for any
            characters, ``?`` for any one, every other character for itself
        """
        return await told(self._layers.store.keys)(pattern)

    def iterate_keys(self, pattern: str | None = None) -> AsyncIterator[str]:
        """Return the keys that have a value one by one, read page by page: ``async for``.

        :param pattern: as in :meth:`keys`
        """
        return self._layers.store.iterate_keys(pattern)

    async def get_or_set(
        self,
        key: str,
        fn: Callable[[*Ts], Awaitable[T]],
        ttl: float | timedelta | None,
        *args: *Ts,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        negative_ttl: float | timedelta | None = None,
        lease: float | timedelta = 10,
    ) -> T:
        """Return the value of a key, or what ``fn(*args)`` returns, kept for ``ttl`` seconds.

        Of all callers in the fleet, one calls the function, holding a lock that is renewed
        meanwhile; the others wait for its value. If that caller is cancelled, another one calls its
        own function; if its process dies, another one does so when the lease has expired. An error
        of the function is raised for all who waited for it in this process, and is not kept.

        It never fails because of the store. While the store is down, it calls the function, one
        call at a time for each key and process, and tells that with an event and in the log. If
        only writing or locking fails, stored values are still found.

        :param key: the key of the value; the key of the lock is ``get_or_set:`` and this key
        :param fn: an async function; pass keyword arguments with ``functools.partial``
        :param ttl: how long its result is fresh, in seconds; ``None`` for ever
        :param args: its positional arguments
        :param stale_while_revalidate: for how many seconds after ``ttl`` an old value is returned
            at once while it is refreshed: in the background of the scope, or outside of a scope by
            one of the callers, which waits for that. If the refresh fails, that is logged, and
            nothing is raised.
        :param stale_if_error: for how many seconds after ``ttl`` an old value is returned if the
            function fails; what counts is when it has failed
        :param negative_ttl: how long a result that is ``None`` is fresh, in seconds; 0 to store no
            such result; the same as ``ttl`` if left out
        :param lease: how long others wait for a process that died while it loaded, in seconds
        :raises Exception: what the function raised
        :raises RuntimeError: if the function waits for its own value, directly or through functions
            of other keys; across processes this cannot be noticed, and they wait for ever
        :raises TypeError: if its result cannot be stored faithfully, or it is not async
        :raises ValueError: if its result cannot be stored faithfully
        """
        fn = async_function(fn, "get_or_set(key, {}, ttl, *args)")
        policy = policy_of(ttl, stale_while_revalidate, stale_if_error, negative_ttl, lease)
        value: T = await self._loading(key, partial(fn, *args), policy).value()
        return value

    def _loading(
        self, key: str, call: Callable[[], Awaitable[object]], policy: CachePolicy
    ) -> Loading:
        """Return one call of :meth:`get_or_set`, with options that were checked before."""
        return Loading(self._context, check_key(key), call, policy)


def cache_of(home: Home) -> Cache:
    """Return the cache on a scope's store.

    :raises CapabilityNotSupportedError: if the store has none
    """
    return home.attach(HomeCache, HomeCache).cache


class HomeCache:
    """The cache of one scope, attached to it as a service.

    :param home: the scope
    :param spawn: runs refreshes in the background; the scope itself if left out
    """

    def __init__(self, home: Home, spawn: Spawn | None = None) -> None:
        stores = Persistence.of(home.store())
        cache = stores.cache if isinstance(stores.cache, Cache) else Cache(stores)
        self.cache = cache._hosted_by(home, spawn or home.spawn)

    def begin_end(self) -> float:
        """Return the seconds to wait for refreshes."""
        return REFRESH_SECONDS

    async def settle(self) -> None:
        """Do nothing: what a cache does in the background is brief."""
