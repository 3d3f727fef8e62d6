"""A store, and the layer of this process's memory in front of it, if there is one.

A read looks into the layer first; what it finds in the store is kept there. A change of a key is
made in the store, and drops the key from the layer even if it fails: after an error nobody knows
whether the store was changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from attrs import frozen

from gogoscope._core.clock import monotonic
from gogoscope.cache.local import LocalCache
from gogoscope.persistence.protocols.cache import CacheEntry, CacheProvider

_NOTHING_TO_DROP = nullcontext()


@frozen(eq=False)
class Layers:
    """Where a cache keeps its values.

    :param store: what other processes see, too
    :param local: what is in front of it
    """

    store: CacheProvider
    local: LocalCache | None = None

    def find(self, key: str) -> CacheEntry | None:
        """Return the entry of a key from the layer in front, or ``None`` if it has none."""
        return None if self.local is None else self.local._find(key)

    async def read(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Return the entry of a key from the store, and keep a fresh one in front.

        :param latest: as in :meth:`gogoscope.Cache.get_entry`
        :param stale: likewise
        """
        if self.local is None:
            return await self.store.get_entry(key, latest=latest, stale=stale)
        reading, read_at = self.local._begin(key), monotonic()
        entry = await self.store.get_entry(key, latest=latest, stale=stale)
        if entry is not None and entry.left > 0:
            self.local._keep(key, reading, entry, read_at)
        return entry

    def changing(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        """Return the block in which the store is asked to change these keys."""
        return _NOTHING_TO_DROP if self.local is None else self.local._changing(keys)
