"""A bounded layer in the memory of a process, in front of a cache that others share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from weakref import WeakValueDictionary

from attrs import evolve

from gogoscope._core.arguments import check_count
from gogoscope._core.clock import monotonic
from gogoscope._core.durations import seconds
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.persistence.values import copied


class Reading:
    """A read of the store that is under way, known by its identity."""

    __slots__ = ("__weakref__",)


class LocalCache:
    """Keeps what was read last, so that reading it again soon makes no request.

    Its staleness is bounded: a change that another process makes is seen ``ttl`` seconds later at
    the latest; one that is made through the same :class:`~gogoscope.cache.Cache` at once. No value
    outlives its own end in the store. It belongs to one cache and one event loop.

    :param max_items: how many values it holds; the one that was not used for longest goes first
    :param ttl: how long it gives a value without asking the store, in seconds
    """

    def __init__(self, max_items: int = 1000, ttl: float | timedelta = 1.0) -> None:
        self._max_items = check_count("max_items", max_items)
        self._ttl = seconds("ttl", ttl)
        self._kept: dict[str, tuple[CacheEntry, float]] = {}
        self._readings: WeakValueDictionary[str, Reading] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<LocalCache max_items={self._max_items} ttl={self._ttl:g}>"

    def _find(self, key: str) -> CacheEntry | None:
        """Return a value that is fresh enough, with what is left of it now, or ``None``.

        The caller may change the value.
        """
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        entry, read_at = kept
        age = monotonic() - read_at
        if age >= min(self._ttl, entry.left):
            return None
        self._kept[key] = kept  # as the one used last
        return evolve(entry, value=copied(entry.value), left=entry.left - age)

    def _begin(self, key: str) -> Reading:
        """Note that the store is being read; pass what this gives to :meth:`keep`."""
        reading = self._readings[key] = Reading()
        return reading

    def _keep(self, key: str, reading: Reading, entry: CacheEntry, read_at: float) -> None:
        """Keep what a read gave, unless the key was changed meanwhile.

        :param read_at: when the read began, on the event loop's clock
        """
        if self._readings.get(key) is not reading:
            return
        self._kept.pop(key, None)
        if len(self._kept) >= self._max_items:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (evolve(entry, value=copied(entry.value)), read_at)

    @contextmanager
    def _changing(self, keys: Iterable[str]) -> Iterator[None]:
        """Drop these keys, and what is being read of them, when a change of them has ended."""
        try:
            yield
        finally:
            for key in keys:
                self._kept.pop(key, None)
                self._readings.pop(key, None)

    def clear(self) -> None:
        """Drop every key."""
        self._kept.clear()
        self._readings.clear()
