"""The cache: the operations of a store, and one load for the many callers of a whole fleet."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar, TypeVarTuple

from attrs import evolve

from gogoscope._core.background import Home
from gogoscope.cache.layers import Layers
from gogoscope.cache.loading import Context, Loading
from gogoscope.cache.local import LocalCache
from gogoscope.cache.policy import CachePolicy, policy_of
from gogoscope.persistence.bundle import Persistence, unsupported
from gogoscope.persistence.protocols.cache import CacheEntry, CacheProvider
from gogoscope.persistence.validation import check_key, check_keys, check_mapping

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Cache:
    """A cache on a store; ``s.cache`` is the one of a scope, and it works outside of scopes, too.

    Its plain methods are those of the store: they raise what the store raises.
    :meth:`get_or_set` calls a function where there is no value, and never fails because of the
    store.

    :param store: keeps the values; if it keeps locks as well, or is a bundle with a store that
        does, one process of the fleet loads a value for all, else one for each process
    :param local: a layer in front, in the memory of this process, which bounds how stale it is
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

    def _hosted_by(self, home: Home) -> Self:
        """Return this cache as a scope uses it: with its events and its background."""
        cache = copy.copy(self)
        cache._context = evolve(self._context, observer=home, spawn=home.spawn)
        return cache

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if it has none."""
        if self._layers.local is None:
            return await self._layers.store.get(key, default)
        entry = await self.get_entry(key)
        return default if entry is None else entry.value

    async def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Return the value of a key with its end, or ``None`` if it has none.

        :param latest: whether to see every write that was completed before, also where ``get``
            may miss the last ones
        :param stale: whether to give a value that is kept beyond its time, too
        """
        found = None if latest else self._layers.find(check_key(key))
        if found is not None:
            return found
        return await self._layers.read(key, latest=latest, stale=stale)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that have one, as the store has them."""
        return await self._layers.store.get_many(keys)

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
        :param stale: for how many seconds after its time ``get_entry`` gives it to who asks for old
            values; nothing else does, but its key may still be listed
        :returns: whether the value was set; without ``if_absent`` it always is
        :raises TypeError: if the value cannot be stored faithfully; the message names the path
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        with self._layers.changing([check_key(key)]):
            return await self._layers.store.set(key, value, ttl, if_absent=if_absent, stale=stale)

    async def set_many(
        self, values: Mapping[str, Any], ttl: float | timedelta | None = None
    ) -> None:
        """Set the values of many keys, each for ``ttl`` seconds or for ever.

        :raises TypeError: if a value cannot be stored faithfully; nothing is set then
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        keys = list(check_mapping(values))
        with self._layers.changing(keys):
            await self._layers.store.set_many(values, ttl)

    async def touch(self, key: str, ttl: float | timedelta | None = None) -> bool:
        """Let the value of a key end ``ttl`` seconds from now, or never; ``False`` if it has none.

        :raises ValueError: if ``ttl`` is out of range
        """
        with self._layers.changing([check_key(key)]):
            return await self._layers.store.touch(key, ttl)

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value."""
        with self._layers.changing([check_key(key)]):
            return await self._layers.store.delete(key)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many keys, whether or not they have a value."""
        keys = check_keys(keys)
        with self._layers.changing(keys):
            await self._layers.store.delete_many(keys)

    async def has(self, key: str) -> bool:
        """Return whether a key has a value in the store, ``None`` included."""
        return await self._layers.store.has(key)

    async def clear(self) -> None:
        """Remove every key below the store's prefix; touches no lock and no circuit."""
        try:
            await self._layers.store.clear()
        finally:
            if self._layers.local is not None:
                self._layers.local.clear()

    async def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, without the store's prefix, in no particular order.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        return await self._layers.store.keys(pattern)

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

        Of all callers in the fleet one calls the function, holding a lock that is renewed
        meanwhile; the others wait and find its value. If that caller is cancelled, another one
        calls its function; if its process dies, another one does when the lease is over. An error
        of the function is raised for all who waited for it in this process, and is not kept.

        It never fails because of the store: while that is down, it calls the function, one call at
        a time for each key and process, and says so with an event and in the log. Where only its
        writes or its locks fail, values that it has are still found.

        :param key: the key; the lock is called ``get_or_set:`` and the key
        :param fn: an async function; pass keyword arguments with ``functools.partial``
        :param ttl: how long its result is fresh, in seconds; ``None`` for ever
        :param args: its positional arguments
        :param stale_while_revalidate: how many seconds longer an old value is given at once, while
            it is refreshed: in the background of the scope, or else by one of the callers, who
            waits for that; a refresh that fails is logged and raises nothing
        :param stale_if_error: how many seconds longer an old value is given when the function
            fails, counted at the time when it has failed
        :param negative_ttl: how long a result that is ``None`` is fresh, in seconds; 0 keeps it
            not at all; like any other value if left out
        :param lease: how long others wait for a process that died while it called, in seconds
        :raises Exception: what the function raised
        :raises RuntimeError: if it waits for its own value, be it through the functions of other
            keys; where those run in other processes, nobody can tell, and they wait for ever
        :raises TypeError: if its result cannot be stored faithfully, or it is not async
        :raises ValueError: if its result cannot be stored faithfully
        """
        if not callable(fn):
            raise TypeError(
                f"get_or_set takes a function to call, got {fn!r}; "
                "write get_or_set(key, fn, ttl, *args)"
            )
        policy = policy_of(ttl, stale_while_revalidate, stale_if_error, negative_ttl, lease)
        value: T = await self._loading(key, partial(fn, *args), policy).value()
        return value

    def _loading(
        self, key: str, call: Callable[[], Awaitable[object]], policy: CachePolicy
    ) -> Loading:
        """Return what does :meth:`get_or_set`, with options that were checked before."""
        return Loading(self._context, check_key(key), call, policy)


def cache_of(home: Home) -> Cache:
    """Return the cache on a scope's store.

    :raises CapabilityNotSupportedError: if the store has none
    """
    return home.attach(HomeCache, HomeCache).cache


class HomeCache:
    """The cache of one scope; attached to it."""

    patience = 1.0
    """Seconds that the scope's end waits for refreshes."""

    def __init__(self, home: Home) -> None:
        stores = Persistence.of(home.store())
        cache = stores.cache if isinstance(stores.cache, Cache) else Cache(stores)
        self.cache = cache._hosted_by(home)

    async def settle(self) -> None:
        """Do nothing: what a cache does in the background is brief."""
