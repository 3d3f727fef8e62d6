"""A store, and the local layer in front of it, if there is one.

A read looks into the local layer first; what it finds in the store is kept there. A change of a key
is made in the store, and drops the key from the local layer even if it fails: after an error nobody
knows whether the store was changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from attrs import NOTHING, frozen

from gogoscope._core.clock import monotonic
from gogoscope.cache.local import LocalCache
from gogoscope.persistence.protocols.cache import CacheEntry, CacheProvider


@frozen(eq=False)
class Layers:
    """Where a cache keeps its values.

    :param store: the store, which other processes use, too
    :param local: the layer in the memory of this process
    """

    store: CacheProvider
    local: LocalCache | None = None

    def find(self, key: str) -> CacheEntry | None:
        """Return the entry of a key in the local layer, or ``None`` if it has none."""
        return None if self.local is None else self.local._find(key)

    def peek(self, key: str) -> Any:
        """Return the value of a key if its store is in the memory of this process.

        :returns: ``NOTHING`` if it is elsewhere, or if it takes more than a look to know it
        """
        peek = None if self.local is not None else getattr(self.store, "_peek", None)
        return NOTHING if peek is None else peek(key)

    def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> Awaitable[CacheEntry | None]:
        """Return the entry of a key in the store, and keep a fresh one in the local layer.

        The parameters are those of :meth:`gogoscope.Cache.get_entry`.
        """
        if self.local is None:
            return self.store.get_entry(key, latest=latest, stale=stale)
        return self._get_entry_for(self.local, key, latest=latest, stale=stale)

    async def _get_entry_for(
        self, local: LocalCache, key: str, *, latest: bool, stale: bool
    ) -> CacheEntry | None:
        reading, read_at = local._begin(key), monotonic()
        entry = await self.store.get_entry(key, latest=latest, stale=stale)
        if entry is not None and entry.left > 0:
            local._keep(key, reading, entry, read_at)
        return entry

    def forget(self, keys: Iterable[str]) -> None:
        """Drop keys from the local layer, when the store was asked to change them."""
        if self.local is not None:
            for key in keys:
                self.local._forget(key)
