"""A store in the memory of this process: needs no set-up, and ends with the process."""

from __future__ import annotations

import copy
import itertools
import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self
from weakref import WeakSet

from attrs import NOTHING

from gogoscope.exceptions import PersistenceError
from gogoscope.persistence import (
    Answer,
    Change,
    Clock,
    Codec,
    Finding,
    Kind,
    PersistenceURL,
    Record,
    Records,
    RecordStore,
    Steady,
    after_fork,
    check_clock,
    check_key_prefix,
    current_clock,
    running,
)
from gogoscope.persistence.records.cache import CACHE
from gogoscope.persistence.values import check_value, copied
from gogoscope.persistence.watching import Changed, Stop, Watchers

SWEPT_PER_WRITE = 4


class MemoryRecords(Records):
    """Records in dicts, one for each kind; every thread may use them.

    No method suspends, so none is a checkpoint. A single read does without the guard, so it leaves
    all as it is, the tables too: a write may be going through them. Each write also looks at a few
    other records and drops those that are gone, so that memory holds little more than what is
    alive.

    A forked process would have a copy, and so a second holder of every lock. There the records are
    gone, and in the place of the clock and the guard, one of which each operation needs, stands
    what refuses it.

    :param clock: what it tells the time by
    """

    def __init__(self, clock: Clock = current_clock) -> None:
        self._clock = check_clock(clock)
        self._guard: threading.Lock | _OfParent = threading.Lock()
        _all_records.add(self)
        self._tables: defaultdict[str, dict[str, tuple[Any, float]]] = defaultdict(dict)
        self._unswept: Iterator[tuple[str, str]] = iter(())
        self._watchers = Watchers()

    def table(self, kind: Kind[Any]) -> Mapping[str, tuple[Any, float]]:
        """Return the records of a kind with their purge times, for reading one."""
        return self._tables[kind.name]

    def now_ms(self) -> int:
        """Return the clock in milliseconds since the Unix epoch."""
        return int(self._clock.wall() * 1000)

    def steady(self) -> Steady | None:
        """Return the time by which leases count."""
        return Steady.of(self._clock)

    async def read(self, kind: Kind[Record], key: str) -> Record | None:
        """Return a record as the newest completed write left it."""
        return self._find(kind, key, self.now_ms())

    async def transact(
        self, kind: Kind[Record], key: str, change: Change[Record, Answer]
    ) -> Answer:
        """Read a record, apply ``change`` to it, write the outcome, and return the answer."""
        with self._guard:
            now_ms = self.now_ms()
            record = self._find(kind, key, now_ms)
            changed, answer = change(record, now_ms)
            if changed is None:
                self._tables[kind.name].pop(key, None)
            elif changed is not record:
                self._put(kind, key, changed, now_ms)
            if self._watchers and changed is not record and kind.tells(changed):
                self._watchers.tell(_name(kind.name, key))
            return answer

    async def write(self, kind: Kind[Record], key: str, make: Callable[[int], Record]) -> None:
        """Replace a record, whatever it was, by what ``make`` returns for the time."""
        with self._guard:
            now_ms = self.now_ms()
            self._put(kind, key, make(now_ms), now_ms)

    async def read_many(self, kind: Kind[Record], keys: Sequence[str]) -> dict[str, Record]:
        """Return the records of those keys that have one, as they are at one time."""
        with self._guard:
            now_ms = self.now_ms()
            found = {key: self._find(kind, key, now_ms) for key in keys}
            return {key: record for key, record in found.items() if record is not None}

    async def write_many(
        self, kind: Kind[Record], keys: Sequence[str], make: Callable[[str, int], Record | None]
    ) -> None:
        """Replace records, all at once, by what ``make`` returns; ``None`` removes one."""
        with self._guard:
            now_ms = self.now_ms()
            for key, record in [(key, make(key, now_ms)) for key in keys]:
                if record is None:
                    self._tables[kind.name].pop(key, None)
                else:
                    self._put(kind, key, record, now_ms)

    async def keys(self, kind: Kind[Any], prefix: str) -> list[str]:
        """List the keys of a kind that start with ``prefix``."""
        with self._guard:
            now_ms = self.now_ms()
            return [
                key
                for key, (_, purge_at_ms) in self._tables[kind.name].items()
                if purge_at_ms > now_ms and key.startswith(prefix)
            ]

    async def clear(self, kind: Kind[Any], prefix: str) -> None:
        """Remove every record of a kind whose key starts with ``prefix``."""
        with self._guard:
            table = self._tables[kind.name]
            for key in [key for key in table if key.startswith(prefix)]:
                del table[key]

    def watch(self, kind: str, key: str, changed: Changed) -> Stop:
        """Call ``changed`` in this event loop when it makes sense to look at a record.

        Whoever changes the record may be in another thread.
        """
        in_this_loop = partial(running().call_from_anywhere, changed)
        guard = self._guard
        with guard:
            stop = self._watchers.add(_name(kind, key), in_this_loop)

        def stop_safely() -> None:
            with guard:
                stop()

        return stop_safely

    def _find(self, kind: Kind[Record], key: str, now_ms: int) -> Record | None:
        record: Record
        record, purge_at_ms = self._tables.get(kind.name, _EMPTY).get(key, _ABSENT)
        return record if purge_at_ms > now_ms else None

    def _put(self, kind: Kind[Record], key: str, record: Record, now_ms: int) -> None:
        purge_at_ms = kind.purge_at_ms(record, now_ms)
        self._tables[kind.name][key] = (
            record,
            math.inf if purge_at_ms is None else purge_at_ms,
        )
        self._sweep(now_ms)

    def _sweep(self, now_ms: int) -> None:
        looked_at = 0
        for name, key in itertools.islice(self._unswept, SWEPT_PER_WRITE):
            looked_at += 1
            if self._tables[name].get(key, _ABSENT)[1] <= now_ms:
                self._tables[name].pop(key, None)
        if looked_at < SWEPT_PER_WRITE:
            self._unswept = iter(
                [(name, key) for name, table in self._tables.items() for key in table]
            )

    def _forked(self, parent: int) -> None:
        for table in self._tables.values():
            table.clear()
        self._clock = self._guard = _OfParent(parent)


def _name(kind: str, key: str) -> str:
    return f"{kind}:{key}"


class _OfParent:
    """Refuses what needs it, in a forked process."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def _refuse(self, *_: object) -> NoReturn:
        raise PersistenceError(
            f"this store in memory was made by process {self._parent}, of which this one is a "
            "fork; make a store of its own here"
        )

    wall = elapsed = __enter__ = __exit__ = _refuse


class SnapshotCodec:
    """Keeps a copy of each value and returns copies of that, so that no two callers share one."""

    def dumps(self, value: Any) -> Any:
        """Return what is kept of a value.

        :raises TypeError: if a part of it is not JSON-shaped; the message names its path
        :raises ValueError: if a part of it is a number or a structure that JSON cannot hold
        """
        check_value(value)
        return copied(value)

    def loads(self, text: Any) -> Any:
        """Return the value again, for the caller to change as it likes."""
        return copied(text)


class MemoryStore(RecordStore):
    """Locks, circuit breakers and a cache in the memory of this process.

    It may be made and used by any thread and event loop, but not by a process that is forked
    later: that one must make its own. No operation suspends, so none is a checkpoint, but for a
    ``set_many`` of a thousand keys or more. As an async context manager it does nothing: there is
    nothing to open or close.

    :param key_prefix: stands before every key; ends with one of ``: / . | #``
    :param clock: what it tells the time by
    :param codec: turns cached values into text and back; what JSON can hold if left out
    :param max_clock_skew: how much later than its lease a dead holder's lock is taken over, in
        seconds; only for rehearsing a fleet
    """

    def __init__(
        self,
        *,
        key_prefix: str = "",
        clock: Clock = current_clock,
        codec: Codec | None = None,
        max_clock_skew: float | timedelta = 0.0,
    ) -> None:
        records = MemoryRecords(clock)
        self._wall = clock.wall
        self._cached = records.table(CACHE)
        super().__init__(
            records,
            key_prefix=key_prefix,
            codec=SnapshotCodec() if codec is None else codec,
            max_clock_skew=max_clock_skew,
        )

    def with_prefix(self, key_prefix: str) -> MemoryStore:
        """Return a store on the same records whose keys stand below ``key_prefix`` in this one.

        :param key_prefix: ends with one of ``: / . | #``
        """
        store = copy.copy(self)
        store._key_prefix = self._key_prefix + check_key_prefix(key_prefix)
        return store

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if it has none."""
        found = self._peek(key)
        return await super().get(key, default) if found is NOTHING else found

    def _peek(self, key: str) -> Any:
        """Return the value of a key, or ``NOTHING`` if it takes more than a look to know it.

        It is the shortest way to a hit. Everything else, errors included, is left to the long way.
        """
        try:
            record, purge_at_ms = self._cached[self._key_prefix + key]
            if key and purge_at_ms - record.stale_ms > self._wall() * 1000:
                return self._codec.loads(record.content)
        except Exception:  # noqa: BLE001 - raised by the long way, with what it is about
            return NOTHING
        return NOTHING

    def __repr__(self) -> str:
        return f"<MemoryStore key_prefix={self._key_prefix!r} at {id(self):#x}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    async def examine(self) -> list[Finding]:
        """Tell that no other process sees this store."""
        return [
            Finding(
                "server",
                "doubtful",
                "none: it is in the memory of this process, and no other one sees it",
                "name a store that processes share, unless there is only one",
            )
        ]

    async def describe_scan(self) -> str:
        """Return what a method such as ``keys()`` or ``locks()`` reads, for a sentence."""
        return "the memory of this process, which no other one shares"


def process_store() -> MemoryStore:
    """Return the store that all scopes of this process share unless they name another.

    A process that was forked gets its own, empty one: locks are not shared with its parent.
    """
    return _named_store("")


def from_url(url: PersistenceURL) -> MemoryStore:
    """Return the store of ``memory:``, the process-wide one, or of ``memory://name``.

    There is one for each name and process; all with the same name share it.

    :raises InvalidURLError: for an option other than ``key_prefix``
    """
    options = url.convert_options(key_prefix=check_key_prefix)
    store = _named_store(url.location)
    return store.with_prefix(options["key_prefix"]) if options else store


def _named_store(name: str) -> MemoryStore:
    # setdefault, since two threads that come first at once must get the same store.
    return _stores.get(name) or _stores.setdefault(name, MemoryStore())


_stores: dict[str, MemoryStore] = {}
_all_records: WeakSet[MemoryRecords] = WeakSet()
_pid = os.getpid()


def _forget_parent() -> None:
    global _pid
    parent, _pid = _pid, os.getpid()
    _stores.clear()
    for records in list(_all_records):
        records._forked(parent)


after_fork(_forget_parent)
_ABSENT: tuple[Any, float] = (None, -math.inf)
_EMPTY: Mapping[str, tuple[Any, float]] = {}
