"""The local layer: a bounded number of values in the memory of a process, for a short time.

It is bounded three ways: in number, in staleness (``ttl``), and by the end of each value in the
store. A value that was changed must not come back through a read that began before the change. So
each read is noted when it begins; a change of its key removes the note, and what such a read
returns is not kept.
"""

from __future__ import annotations

from datetime import timedelta
from weakref import WeakValueDictionary

from attrs import evolve

from gogoscope._core.arguments import check_count
from gogoscope._core.clock import monotonic
from gogoscope._core.durations import seconds
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.persistence.values import copied


class Reading:
    """A read of the store in flight; what counts is its identity."""

    __slots__ = ("__weakref__",)


class LocalCache:
    """Keeps what was read last, so that reading it again soon makes no request.

    A change by another process is seen ``ttl`` seconds later at the latest, one through the same
    :class:`~gogoscope.Cache` at once. No value outlives its own end in the store. It belongs to one
    cache, which one event loop uses at a time. Another one keeps the results of runs, for as many
    scopes as you like: see ``local`` of :class:`~gogoscope.Once`.

    :param max_items: how many values it holds; the least recently used one is dropped first
    :param ttl: how long it returns a value without asking the store, in seconds
    """

    def __init__(self, max_items: int = 1000, ttl: float | timedelta = 1.0) -> None:
        self._max_items = check_count("max_items", max_items)
        self._ttl = seconds("ttl", ttl)
        # Each entry and when its read began, the least recently used one first.
        self._kept: dict[str, tuple[CacheEntry, float]] = {}
        # The last read of each key that is in flight; one that ends or fails leaves by itself.
        self._readings: WeakValueDictionary[str, Reading] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<LocalCache max_items={self._max_items} ttl={self._ttl:g}>"

    def _find(self, key: str) -> CacheEntry | None:
        """Return an entry that is fresh enough, as it is now, or ``None``.

        Its value is a copy, which the caller may change.
        """
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        entry, read_at = kept
        age = monotonic() - read_at
        if age >= min(self._ttl, entry.left):
            return None
        self._kept[key] = kept  # now the most recently used one
        return evolve(entry, value=copied(entry.value), left=entry.left - age)

    def _begin(self, key: str) -> Reading:
        """Note that a read of the store begins; pass the note to :meth:`_keep`."""
        reading = self._readings[key] = Reading()
        return reading

    def _keep(self, key: str, reading: Reading, entry: CacheEntry, read_at: float) -> None:
        """Keep what a read returned, unless the key was changed, or read again, meanwhile.

        :param read_at: when the read began, on the clock of ``monotonic()``
        """
        if self._readings.get(key) is not reading:
            return
        self._kept.pop(key, None)
        if len(self._kept) >= self._max_items:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (evolve(entry, value=copied(entry.value)), read_at)

    def _forget(self, key: str) -> None:
        """Drop a key that was changed, and the note of a read of it."""
        self._kept.pop(key, None)
        self._readings.pop(key, None)

    def clear(self) -> None:
        """Drop every key."""
        self._kept.clear()
        self._readings.clear()
