"""The interface below :class:`Records`: a place that can replace one entry if it is still the same.

A server that has no transactions for us, but one conditional write, is a place like this. Its
author writes these few methods. :class:`CompareAndSwapRecords` makes :class:`Records` of them, and
:class:`RecordStore` makes a whole store of those. Invariants that a place keeps:

- A swap is one atomic step of the server: it compares the id of the last writer and writes, or it
  does neither. It never depends on clocks, nor on whether the purge time of an entry is over.
- What is removed is replaced by an empty entry whose purge time is over by any clock. So the ids
  of its writers are there for those whose answers are lost, and a swap that arrives late finds
  that it is late.
- Only a place removes entries, :data:`KEEP_MS` after their purge time at the earliest. By then no
  request that has seen the entry is under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import field, frozen

from gogoscope.persistence.watching import Changed, Stop, never_told

KEEP_MS = 3_600_000
"""For how long a place keeps an entry after its purge time, at least, in milliseconds."""


@frozen
class Entry:
    """A record as a place keeps it.

    :param text: the record; empty for one that was removed
    :param purge_at_ms: from when on nobody needs the record, in milliseconds since the Unix epoch;
        ``None`` for never
    :param number: grows with every change, also if the entry was removed in between
    :param writers: the ids of those who wrote it last, the newest last; at least one, and each a
        short text of letters, digits and ``-``
    :param marks: what conditions may name besides the text that holds it, too; a place whose
        entries are changed in no other way than by its own methods need not keep them
    :param tell: whether those who watch its key are to be told when it is swapped in; it is no part
        of what is kept
    """

    text: str
    purge_at_ms: int | None
    number: int
    writers: tuple[str, ...]
    tell: bool = field(default=False, eq=False, kw_only=True)
    marks: Mapping[str, str | int] = field(factory=dict, eq=False, kw_only=True)

    @property
    def writer(self) -> str:
        """The id of the last writer; no two writes of an entry have the same."""
        return self.writers[-1]


@frozen
class Swapped:
    """What a place answers to a swap.

    :param swapped: whether the new entry was written
    :param found: the entry that is there instead, if it was not written; ``None`` if there is none
    :param in_doubt: whether an earlier try of the same request, whose answer was lost, may have
        written the new entry; only where ``swapped`` is false
    """

    swapped: bool
    found: Entry | None = None
    in_doubt: bool = False


class CompareAndSwap(Protocol):
    """A place for entries, each under a kind and a key.

    Kinds are short texts of letters, digits and ``-``. Keys are any text but NUL and the empty one,
    of up to 1,000 bytes or so in UTF-8; a place with a lower limit raises ``ValueError`` for a
    longer one. A place fails with a :class:`~gogoscope.exceptions.PersistenceError`, which is a
    :class:`~gogoscope.exceptions.StoreTimeoutError` if a write may have been applied. Every method
    with ``async`` may be cancelled; a write that is cancelled may have been applied.
    """

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch, without a request.

        Where the server has a clock, it is the server's: an offset that was learnt from its
        answers, and this machine's monotonic clock.
        """
        ...

    def knows_the_time(self) -> bool:
        """Return whether ``now_ms`` is what the server's clock shows; else an entry is read first.

        This method, which a place inherits, returns true: override it where only answers tell that
        time, and opening the place asks for none.
        """
        return True

    def clock_was_set(self) -> bool:
        """Return whether the clock of ``now_ms`` was set since the place was opened.

        Nobody knows then whether it is right. This method, which a place inherits, returns false:
        override it where the clock is this machine's (see :class:`ClockSteps`).
        """
        return False

    def clock_error_ms(self) -> int:
        """Return by how many milliseconds ``now_ms`` may be wrong; it is added to the skew.

        This method, which a place inherits, returns 0: override it where the clock is the server's
        (see :class:`ServerClock`).
        """
        return 0

    async def load(self, kind: str, key: str) -> Entry | None:
        """Return an entry as the newest completed write left it, ``None`` if there is none.

        An entry whose purge time is over is returned as long as it is there.

        :raises CorruptRecordError: if what is there cannot be an entry
        """
        ...

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        """Write ``new`` if the last writer is still that of ``seen``, in one atomic step.

        The place may send its request again if the answer to it was lost, with the same content.
        At most one of the tries can write, since each write ends the condition. If one is refused
        after another was not answered, the answer is ``in_doubt``. A request that arrives late,
        also after this method has ended, is refused if anybody has written since.

        :param seen: the entry that the caller has seen; ``None`` if the key had none
        :param new: what to write
        :returns: whether it was written. If not, ``found`` is what was there at the time of the
            refusal, or later.
        :raises CorruptRecordError: if it is refused and what is there cannot be an entry
        :raises StoreTimeoutError: if no try was answered
        """
        ...

    async def put(self, kind: str, key: str, new: Entry) -> None:
        """Write ``new``, whatever is there; replace all of it.

        A place may raise its number above that of the entry which it replaces.

        It is not sent again when it may have been applied, unless a condition keeps the second try
        from undoing what others have written since.

        :raises StoreTimeoutError: if it may have been applied
        """
        ...

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        """Return a page of the keys of a kind that start with ``prefix``.

        Keys whose purge time is over are left out. A key that is there all the time is on one
        page at least; it may be on several.

        :param after: the second result for the page before; ``None`` for the first page
        :returns: the page, which may be empty, and where the next one begins, in the place's own
            words; ``None`` for the last page
        """
        ...

    async def clear(self, kind: str, prefix: str) -> None:
        """Remove every entry of a kind whose key starts with ``prefix``."""
        ...

    def watch(self, kind: str, key: str, changed: Changed) -> Stop:
        """Call ``changed`` when an entry whose ``tell`` is set is swapped in, from now on.

        It is a hint, on which nobody relies: it may come late, more than once, or never. Without it
        those who wait look again after pauses that grow, and so they do with this method, which a
        place inherits. Override it where the server tells of changes. It makes no request itself.

        :param changed: is called in the event loop of the caller
        :returns: what ends it
        """
        return never_told
