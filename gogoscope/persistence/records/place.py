"""The interface below a store: a place that can read, change and write one record atomically.

Derive the place from :class:`Records` and pass it to
:class:`~gogoscope.persistence.records.store.RecordStore`: that makes locks, circuit breakers and a
cache of it. How a record changes is a pure function (:mod:`gogoscope.persistence.rules`), so all
that a place must know is how to keep text under a kind and a key. Invariants:

- ``transact`` is atomic: no other write to the record happens between its read and its write.
- It hands the function the time after it has begun, so that a wait for others makes nobody's
  lease longer than it is.
- A record whose purge time is over does not exist, whether or not the place has removed it.
- A record that was read is never changed, only replaced, so a place may keep it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from gogoscope.events import log_warning
from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence.lock_records import LockRecord, Steady
from gogoscope.persistence.records.kinds import Kind as Kind
from gogoscope.persistence.records.kinds import Record as Record
from gogoscope.persistence.records.kinds import json_kind as json_kind
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.persistence.stored import leave_out
from gogoscope.persistence.validation import (
    check_key,
    check_key_prefix,
    check_max_clock_skew,
    glob_matcher,
    literal_start,
)
from gogoscope.persistence.values import Codec, check_codec
from gogoscope.persistence.watching import Changed, Stop, never_told

Answer = TypeVar("Answer")
P = ParamSpec("P")

Change = Callable[[Record | None, int], tuple[Record | None, Answer]]
"""A pure function of a record (``None`` if there is none) and the time in milliseconds.

It returns the new record and an answer for the caller. Returning the very record that was passed
means that nothing is to be written; returning ``None``, that the record is to be removed.
"""


class Records(Protocol):
    """A place for records, each under a kind and a key.

    From its purge time on a record is gone, whether or not the place has removed it by then. A
    place fails with a :class:`~gogoscope.exceptions.PersistenceError`.
    """

    def now_ms(self) -> int:
        """Return the place's wall clock in milliseconds since the Unix epoch."""
        ...

    def steady(self) -> Steady | None:
        """Return the time by which leases count, if one machine has all who share the place.

        This method, which a place inherits, returns none: leases count by the wall clock then.
        """
        return None

    def clock_was_set(self) -> bool:
        """Return whether the clock of ``now_ms`` was set since the place was opened.

        Nobody knows then whether it is right. This method, which a place inherits, returns false:
        override it where the clock is this machine's and ``steady`` returns none.
        """
        return False

    def clock_error_ms(self) -> int:
        """Return by how many milliseconds ``now_ms`` may be wrong; it is added to the skew.

        This method, which a place inherits, returns 0: override it where the clock is that of a
        server, which is known up to half a round trip.
        """
        return 0

    async def read(self, kind: Kind[Record], key: str) -> Record | None:
        """Return a record as the newest completed write left it."""
        ...

    async def transact(
        self, kind: Kind[Record], key: str, change: Change[Record, Answer]
    ) -> Answer:
        """Read a record, apply ``change`` to it, write the outcome, and return the answer.

        ``change`` may be applied again, to a newer record, where a place finds out at the end
        that it was overtaken.
        """
        ...

    async def write(self, kind: Kind[Record], key: str, make: Callable[[int], Record]) -> None:
        """Replace a record, whatever it was, by what ``make`` returns for the time."""
        ...

    async def keys(self, kind: Kind[Any], prefix: str) -> list[str]:
        """List the keys of a kind that start with ``prefix``."""
        ...

    async def clear(self, kind: Kind[Any], prefix: str) -> None:
        """Remove every record of a kind whose key starts with ``prefix``."""
        ...

    async def read_many(self, kind: Kind[Record], keys: Sequence[str]) -> dict[str, Record]:
        """Return the records of those keys that have one.

        This method, which a place inherits, reads one after the other. Override it where the
        place can read all at once.
        """
        found: dict[str, Record] = {}
        for key in keys:
            record = await self.read(kind, key)
            if record is not None:
                found[key] = record
        return found

    async def write_many(
        self, kind: Kind[Record], keys: Sequence[str], make: Callable[[str, int], Record | None]
    ) -> None:
        """Replace records by what ``make`` returns for key and time; ``None`` removes one.

        This method, which a place inherits, writes one after the other. Override it where the
        place can write all in one transaction.
        """

        def change(key: str) -> Change[Record, None]:
            return lambda record, now_ms: (make(key, now_ms), None)

        for key in keys:
            await self.transact(kind, key, change(key))

    async def keys_after(
        self, kind: Kind[Any], prefix: str, after: str | None
    ) -> tuple[list[str], str | None]:
        """Return a page of the keys that start with ``prefix``, and the key to go on after.

        This method, which a place inherits, returns all keys in one page.

        :param after: the second result for the page before; ``None`` for the first page
        :returns: the page, and the key after which the next one begins, ``None`` for the last page
        """
        return await self.keys(kind, prefix), None

    def watch(self, kind: str, key: str, changed: Changed) -> Stop:
        """Call ``changed`` when it makes sense to look at a record, from now on; makes no request.

        It is a hint, on which nobody relies. This method, which a place inherits, never calls it.

        :param kind: the name of the kind
        :param changed: is called in the event loop of the caller
        :returns: what ends it
        """
        return never_told


class RecordCapability:
    """What the capabilities over a place for records have in common.

    :param records: the place
    :param key_prefix: stands before every key; ends with one of ``: / . | #``
    :param codec: turns cached values into text and back; JSON if left out
    :param max_clock_skew: the largest difference between two clocks of those who share the
        place, in seconds; a lock whose holder died is taken over that much later
    """

    def __init__(
        self,
        records: Records,
        *,
        key_prefix: str = "",
        codec: Codec | None = None,
        max_clock_skew: float | timedelta = 0.0,
    ) -> None:
        self._records = records
        self._key_prefix = check_key_prefix(key_prefix)
        self._codec = check_codec(codec)
        self._skew_ms = math.ceil(check_max_clock_skew(max_clock_skew) * 1000)

    def _full_key(self, key: str) -> str:
        return self._key_prefix + check_key(key)

    def _watch(self, kind: str, key: str, changed: Changed) -> Stop:
        """Call ``changed`` when it makes sense to look at a record, if the place tells."""
        return self._records.watch(kind, self._full_key(key), changed)

    def _change(
        self,
        kind: Kind[Record],
        key: str,
        rule: Callable[Concatenate[Record | None, int, P], tuple[Record | None, Answer]],
        *args: P.args,
        **options: P.kwargs,
    ) -> Awaitable[Answer]:
        """Change a record by a rule in one transaction, and return the rule's answer."""
        return self._records.transact(
            kind, self._full_key(key), lambda record, now_ms: rule(record, now_ms, *args, **options)
        )

    def _left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        return lock_rules.left_ms(lease, self._records.now_ms(), self._records.steady())

    def _skew_now_ms(self) -> int:
        """Return what is allowed for the difference of two clocks, errors of measuring included."""
        return self._skew_ms + self._records.clock_error_ms()

    def _change_lease(
        self,
        kind: Kind[Record],
        key: str,
        rule: Callable[..., tuple[Record | None, Answer]],
        *args: Any,
        **options: Any,
    ) -> Awaitable[Answer]:
        """Change a record by a rule that compares the end of a lease with the time."""

        def change(record: Record | None, now_ms: int) -> tuple[Record | None, Answer]:
            return rule(record, now_ms, *args, at=self._records.steady(), **options)

        return self._records.transact(kind, self._full_key(key), change)

    def _claim_lease(
        self,
        kind: Kind[Record],
        key: str,
        rule: Callable[..., tuple[Record | None, Answer]],
        *args: Any,
        **options: Any,
    ) -> Awaitable[Answer]:
        """Change a record by a rule that judges whether somebody else's lease is over.

        Whether the clock may judge that is asked after it was read, each time: it may be set while
        a request is on its way.
        """

        def judging(*given: Any, **options: Any) -> tuple[Record | None, Answer]:
            was_set = self._records.clock_was_set()
            return rule(*given, skew_ms=self._skew_now_ms(), clock_was_set=was_set, **options)

        return self._change_lease(kind, key, judging, *args, **options)

    async def _listed(self, kind: Kind[Record], pattern: str | None) -> dict[str, Record]:
        """Return the records of a kind below the store's prefix whose keys match a pattern.

        One that is corrupt is logged and left out.
        """
        matches = glob_matcher(pattern)
        start = self._key_prefix + literal_start(pattern or "")
        cut = len(self._key_prefix)
        found: dict[str, Record] = {}
        after: str | None = None
        while True:
            page, after = await self._records.keys_after(kind, start, after)
            for full_key, record in (
                await self._readable(kind, [key for key in page if matches(key[cut:])])
            ).items():
                found[full_key[cut:]] = record
            if after is None:
                return found

    async def _readable(self, kind: Kind[Record], full_keys: list[str]) -> dict[str, Record]:
        try:
            return await self._records.read_many(kind, full_keys)
        except CorruptRecordError as error:
            if len(full_keys) == 1:
                leave_out(error)
                return {}
        middle = len(full_keys) // 2
        return {
            **await self._readable(kind, full_keys[:middle]),
            **await self._readable(kind, full_keys[middle:]),
        }

    async def _change_or_remove(
        self,
        kind: Kind[Record],
        key: str,
        rule: Callable[Concatenate[Record | None, int, P], tuple[Record | None, Answer]],
        *args: P.args,
        **options: P.kwargs,
    ) -> Answer | None:
        """Change a record by a rule, or remove it if it is corrupt.

        :returns: the rule's answer; ``None`` if the record was removed
        """
        try:
            return await self._change(kind, key, rule, *args, **options)
        except CorruptRecordError as error:
            log_warning("a corrupt record is removed", error=error)
        await self._records.write_many(kind, [self._full_key(key)], lambda full_key, now_ms: None)
        return None
