"""The verdicts of runs in the memory of a process, so that a duplicate makes no request for a time.

Only what cannot change is kept: a verdict stays the same until it is forgotten, whatever anybody
says. A run that is under way, or died, is asked for in the store each time. So an answer from here
is never older than the time of the ``LocalCache``, and never outlives the verdict itself.
"""

from __future__ import annotations

import itertools
import math

from gogoscope._core.per_store import PerStore
from gogoscope.cache.local import LocalCache
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.persistence.run_records import VERDICTS, RunRecord

_numbers = itertools.count(1)
_stores: PerStore[int] = PerStore("run_local_numbers", lambda: next(_numbers))
"""A number for each store, so that one ``LocalCache`` may be passed wherever a run is."""


class LocalVerdicts:
    """The verdicts of a store's runs in a ``LocalCache``.

    :param local: keeps them; ``None`` keeps nothing
    :param store: where the runs are
    """

    __slots__ = ("_local", "_number")

    def __init__(self, local: LocalCache | None, store: object) -> None:
        self._local = local
        self._number = 0 if local is None else _stores.of(store)

    def find(self, key: str) -> RunRecord | None:
        """Return the verdict of a run, if it was seen not long ago."""
        entry = None if self._local is None else self._local._find(self._name(key))
        found: RunRecord | None = None if entry is None else entry.value
        return found

    def keep(self, key: str, record: RunRecord, left: float | None, seen_at: float) -> None:
        """Keep a verdict; nothing else is kept.

        :param left: for how many seconds the store keeps it, ``None`` for ever
        :param seen_at: from when on, on the clock of ``monotonic()``
        """
        if self._local is None or record.state not in VERDICTS:
            return
        name = self._name(key)
        entry = CacheEntry(record, record.until_ms, math.inf if left is None else left)
        self._local._keep(name, self._local._begin(name), entry, seen_at)

    def _name(self, key: str) -> str:
        return f"run {self._number} {key}"
