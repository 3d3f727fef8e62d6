"""Records over any place that can compare and swap one entry.

**The guess.** A change is applied to the entry that this process has seen last, and written on the
condition that the entry is still that one; a key that was never seen is guessed to have none. A
refusal shows the newest entry, and the change is applied to that. So a change that nobody disputes
is one request, as if the server itself had applied it.

**The ids of the last writers.** The answer to a swap may be lost, and others may have written by
the time that the place tries again. So an entry keeps the ids of its last writers. If our id is
among them, our change was applied. If it is not, but that of the writer before us is, our change
was not applied and never will be. Only if neither is there, nobody knows: that is an error.

Invariants:

- An answer that a change returned leaves this module only if the change was written, or if it
  wrote nothing and the entry that it was applied to was read after the call had begun. The same is
  true of an exception that a change raises.
- ``_seen`` holds guesses. A wrong one costs a request, and nothing else. While a write of ours is
  under way, what its key has is unknown; it stays unknown if the write fails or is cancelled.
- A write whose fate is unknown, since it was cancelled or never answered, may still be under way.
  The next change of its key by this process writes even if it changes nothing (it seals the entry),
  so that the one under way is refused when it lands. So what a caller finds out after it was
  cancelled, such as that it did not get a lock, stays true. ``_unsettled`` holds the keys of such
  writes, and is bounded.
- Of two writes of whole records, the later one has the higher number: ``_number`` is the last one.
- A record that is removed, or whose purge time is over, is an entry like any other, which is
  shown to a change as ``None``. What is removed has no text, so it stays removed though the clock
  is set back.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
from attrs import evolve

from gogoscope._core.jitter import uniform
from gogoscope.exceptions import Effect, StoreTimeoutError
from gogoscope.persistence.in_flight import for_each
from gogoscope.persistence.records.compare_and_swap import CompareAndSwap, Entry
from gogoscope.persistence.records.place import Answer, Change, Kind, Record, Records
from gogoscope.persistence.watching import Changed, Stop

MOST_WRITERS = 32
"""How many ids an entry keeps: after more writes than that, a lost answer cannot be found out."""
MOST_SEEN = 1000
MOST_CHARACTERS_SEEN = 4_000_000
FIRST_PAUSE = 0.008
LONGEST_PAUSE = 0.2
NUMBERS_PER_MS = 1000
"""The number of an entry is its time, multiplied by this, or the next one if that is not more."""
REMOVED_AGO_MS = 60_000
"""How long ago the purge time of a removed entry is, so that it is over by everybody's clock."""
_NOTHING = "-"
"""Stands, in place of an id, before the first writer of an entry that did not exist before."""


T = TypeVar("T")


class CompareAndSwapRecords(Records):
    """Records over a place for entries.

    :param place: the place
    """

    def __init__(self, place: CompareAndSwap) -> None:
        self._place = place
        self._seen = _Seen()
        self._unsettled: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._number = 0

    def now_ms(self) -> int:
        """Return the place's clock in milliseconds since the Unix epoch."""
        return self._place.now_ms()

    def clock_error_ms(self) -> int:
        """Return by how many milliseconds the place's clock may be wrong."""
        return self._place.clock_error_ms()

    def clock_was_set(self) -> bool:
        """Return whether the place's clock was set since the place was opened."""
        return self._place.clock_was_set()

    async def read(self, kind: Kind[Record], key: str) -> Record | None:
        """Return a record as the newest completed write left it."""
        return self._record(kind, key, await self._load(kind, key), self.now_ms())

    async def transact(
        self, kind: Kind[Record], key: str, change: Change[Record, Answer]
    ) -> Answer:
        """Apply ``change`` to a record, write the outcome, and return the answer.

        ``change`` is applied to a guess first, and again to a newer record as often as the guess
        was wrong. Cancelled, it may have been applied.

        :raises StoreTimeoutError: if it may have been applied, but nobody can tell
        """
        seen, known = await self._first_seen(kind, key)
        writer = secrets.token_hex(6)
        refusals = 0
        while True:
            try:
                new, answer = self._apply(kind, key, change, seen, known, writer)
            except Exception:
                if known:
                    raise
                seen, known = await self._load(kind, key), True
                continue
            if new is None:
                if known:
                    return answer
                seen, known = await self._load(kind, key), True
                continue
            self._seen.forget(kind, key)
            outcome = await self._settling(kind, key, self._place.swap(kind.name, key, seen, new))
            if outcome.swapped:
                self._written(kind, key, new)
                return answer
            found = outcome.found
            if found is not None and writer in found.writers:
                self._written(kind, key, found)
                return answer
            self._seen.put(kind, key, found)
            if outcome.in_doubt and (found is None or _writers(seen)[-1] not in found.writers):
                raise StoreTimeoutError(
                    f"a change of the {kind.name} {key!r} may have been applied: its answer was "
                    "lost, and too many others have written since"
                )
            seen, known = found, True
            refusals += 1
            if refusals > 1:
                await anyio.sleep(uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**refusals)))

    async def _first_seen(self, kind: Kind[Any], key: str) -> tuple[Entry | None, bool]:
        """Return what an entry is guessed to be, or what was read, and whether it was read."""
        if self._place.knows_the_time():
            return self._seen.get(kind, key), False
        return await self._load(kind, key), True

    async def read_many(self, kind: Kind[Record], keys: Sequence[str]) -> dict[str, Record]:
        """Return the records of those keys that have one; some requests are in flight at a time."""
        found: dict[str, Record] = {}

        async def read(key: str) -> None:
            record = await self.read(kind, key)
            if record is not None:
                found[key] = record

        await for_each(read, keys)
        return found

    async def write(self, kind: Kind[Record], key: str, make: Callable[[int], Record]) -> None:
        """Replace a record, whatever it was, by what ``make`` returns for the time."""
        now_ms = self.now_ms()
        await self._put(kind, key, make(now_ms), now_ms)

    async def write_many(
        self, kind: Kind[Record], keys: Sequence[str], make: Callable[[str, int], Record | None]
    ) -> None:
        """Replace records by what ``make`` returns for key and time; ``None`` removes one."""

        async def write(key: str) -> None:
            now_ms = self.now_ms()
            await self._put(kind, key, make(key, now_ms), now_ms)

        await for_each(write, keys)

    async def keys(self, kind: Kind[Any], prefix: str) -> list[str]:
        """List the keys of a kind that start with ``prefix``."""
        found: dict[str, None] = {}
        after: str | None = None
        while True:
            page, after = await self.keys_after(kind, prefix, after)
            found.update(dict.fromkeys(page))
            if after is None:
                return list(found)

    async def keys_after(
        self, kind: Kind[Any], prefix: str, after: str | None
    ) -> tuple[list[str], str | None]:
        """Return a page of the keys that start with ``prefix``, and where the next one begins."""
        return await self._place.keys(kind.name, prefix, after)

    def watch(self, kind: str, key: str, changed: Changed) -> Stop:
        """Call ``changed`` when it makes sense to look at a record, if the place tells."""
        return self._place.watch(kind, key, changed)

    async def clear(self, kind: Kind[Any], prefix: str) -> None:
        """Remove every record of a kind whose key starts with ``prefix``."""
        self._seen.forget_all(kind, prefix)
        await self._place.clear(kind.name, prefix)

    def note(self, kind: Kind[Any], key: str, entry: Entry | None, *, written: bool) -> None:
        """Note an entry that a request of the place's own has shown, for the next guess.

        :param written: whether that request has written it
        """
        if written:
            self._written(kind, key, entry)
        else:
            self._seen.put(kind, key, entry)

    def _apply(
        self,
        kind: Kind[Record],
        key: str,
        change: Change[Record, Answer],
        seen: Entry | None,
        known: bool,
        writer: str,
    ) -> tuple[Entry | None, Answer]:
        """Return what a change makes of an entry, ``None`` if it writes nothing, and its answer."""
        now_ms = self.now_ms()
        record = self._record(kind, key, seen, now_ms)
        changed, answer = change(record, now_ms)
        if changed is record:
            unsettled = known and (kind.name, key) in self._unsettled
            return self._sealed(seen, writer) if unsettled else None, answer
        writers = (*_writers(seen), writer)[-MOST_WRITERS:]
        return _entry(kind, changed, now_ms, _number(seen, now_ms), writers), answer

    def _sealed(self, seen: Entry | None, writer: str) -> Entry:
        """Return the same entry as if it had been written once more."""
        now_ms = self.now_ms()
        number, writers = _number(seen, now_ms), (*_writers(seen), writer)[-MOST_WRITERS:]
        if seen is None:
            return Entry("", now_ms - REMOVED_AGO_MS, number, writers)
        return evolve(seen, number=number, writers=writers)

    async def _settling(self, kind: Kind[Any], key: str, write: Awaitable[T]) -> T:
        """Await a write, and note its key if it may still be under way afterwards."""
        try:
            return await write
        except BaseException as error:
            if getattr(error, "effect", Effect.MAYBE_APPLIED) is Effect.MAYBE_APPLIED:
                self._unsettled[kind.name, key] = None
                if len(self._unsettled) > MOST_SEEN:
                    self._unsettled.popitem(last=False)
            raise

    def _written(self, kind: Kind[Any], key: str, entry: Entry | None) -> None:
        """Note what a key has after a write of ours, which ends the conditions of all before."""
        self._unsettled.pop((kind.name, key), None)
        self._seen.put(kind, key, entry)

    async def _load(self, kind: Kind[Any], key: str) -> Entry | None:
        entry = await self._place.load(kind.name, key)
        self._seen.put(kind, key, entry)
        return entry

    async def _put(self, kind: Kind[Record], key: str, record: Record | None, now_ms: int) -> None:
        self._number = max(now_ms * NUMBERS_PER_MS, self._number + 1)
        new = _entry(kind, record, now_ms, self._number, (secrets.token_hex(6),))
        self._seen.forget(kind, key)
        await self._settling(kind, key, self._place.put(kind.name, key, new))
        self._written(kind, key, new)

    def _record(
        self, kind: Kind[Record], key: str, entry: Entry | None, now_ms: int
    ) -> Record | None:
        if entry is None or not entry.text:
            return None
        if entry.purge_at_ms is not None and entry.purge_at_ms <= now_ms:
            return None
        return kind.restore(key, entry.text, entry.purge_at_ms)


class _Seen:
    """What this process has seen last of the keys that it has used last.

    It is bounded in entries and in characters, so a very long entry is not kept.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self._characters = 0

    def get(self, kind: Kind[Any], key: str) -> Entry | None:
        return self._entries.get((kind.name, key))

    def put(self, kind: Kind[Any], key: str, entry: Entry | None) -> None:
        self.forget(kind, key)
        if entry is None:
            return
        self._entries[kind.name, key] = entry
        self._characters += len(entry.text)
        while len(self._entries) > MOST_SEEN or self._characters > MOST_CHARACTERS_SEEN:
            _, oldest = self._entries.popitem(last=False)
            self._characters -= len(oldest.text)

    def forget(self, kind: Kind[Any], key: str) -> None:
        entry = self._entries.pop((kind.name, key), None)
        if entry is not None:
            self._characters -= len(entry.text)

    def forget_all(self, kind: Kind[Any], prefix: str) -> None:
        for name, key in list(self._entries):
            if name == kind.name and key.startswith(prefix):
                self.forget(kind, key)


def _entry(
    kind: Kind[Record], record: Record | None, now_ms: int, number: int, writers: tuple[str, ...]
) -> Entry:
    if record is None:
        return Entry("", now_ms - REMOVED_AGO_MS, number, writers, tell=kind.tells(None))
    marks = {} if kind.marks is None else kind.marks(record)
    purge_at_ms, tell = kind.purge_at_ms(record, now_ms), kind.tells(record)
    return Entry(kind.dump(record), purge_at_ms, number, writers, tell=tell, marks=marks)


def _number(seen: Entry | None, now_ms: int) -> int:
    """Return a number above that of an entry, and above those of writes of other values before."""
    number = now_ms * NUMBERS_PER_MS
    return number if seen is None else max(number, seen.number + 1)


def _writers(seen: Entry | None) -> tuple[str, ...]:
    return (_NOTHING,) if seen is None else seen.writers
