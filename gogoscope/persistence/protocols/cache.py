"""What a store of cached values does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from attrs import frozen


@frozen
class CacheEntry:
    """A cached value and when it ends.

    :param value: the value
    :param until_ms: when it ends, in milliseconds by the store's clock; ``None`` for never
    :param left: the seconds until then, counted when it was read; ``math.inf`` if it never ends, 0
        or less if it ended before and is kept beyond its time
    """

    value: Any
    until_ms: int | None
    left: float


@runtime_checkable
class CacheProvider(Protocol):
    """Keeps JSON-shaped values under keys, for ever or for a time.

    Methods of many keys check all arguments before they change anything. Each key is changed
    atomically. Whether all keys together are depends on the store: in memory they are, and on
    SQLite a thousand at a time. Elsewhere others may see some of the changes, and only some may be
    made if the method fails or is cancelled.
    """

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if it has none."""
        ...

    async def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Return the value of a key and when it ends, or ``None`` if it has none.

        :param latest: whether to see every write that was completed before, also where ``get``
            may miss the last ones, as on DynamoDB
        :param stale: whether to return a value that is kept beyond its time, too
        """
        ...

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that have one."""
        ...

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
        ...

    async def set_many(
        self, values: Mapping[str, Any], ttl: float | timedelta | None = None
    ) -> None:
        """Set the values of many keys, each for ``ttl`` seconds or for ever.

        :raises TypeError: if a value cannot be stored faithfully; nothing is set then
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        ...

    async def touch(self, key: str, ttl: float | timedelta | None = None) -> bool:
        """Let the value of a key end ``ttl`` seconds from now, or never.

        :returns: ``False`` if the key has no value
        :raises ValueError: if ``ttl`` is out of range
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value."""
        ...

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many keys, whether or not they have a value."""
        ...

    async def has(self, key: str) -> bool:
        """Return whether a key has a value, ``None`` included."""
        ...

    async def clear(self) -> None:
        """Remove every key below the store's prefix; locks and circuit breakers stay."""
        ...

    async def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, without the store's prefix, in no particular order.

        :param pattern: which keys, as a case-sensitive glob over whole keys: ``*`` stands for any
            characters, ``?`` for any one, every other character for itself
        :raises ValueError: if the pattern holds a NUL or a lone surrogate, which no key does
        """
        ...

    def iterate_keys(self, pattern: str | None = None) -> AsyncIterator[str]:
        """Return the keys that have a value one by one, read page by page: ``async for``.

        A key that has a value all the time is returned once; one that is set or removed meanwhile
        may or may not be. The iteration may be left at any time.

        :param pattern: as in ``keys``
        """
        ...
