"""Entries in the rows of one table: each method is one statement, and a transaction of its own.

A statement that changes a row takes the row's lock first, so it sees the newest version of it, and
decides by that. If its condition does not hold, it writes what is there already, and returns it: so
a refusal shows the newest entry without another request. (A condition in ``WHERE`` would leave the
row alone, but then the answer could only show what the row was when the statement began.)

Whether a write was carried out is read off the row: it was if the last writer is the one that the
statement brings. So a statement that is sent again after its answer was lost says that it was
carried out, unless others have written since.

Rows are removed :data:`~gogoscope.persistence.KEEP_MS` after their purge time. Nobody has to see to
that: after one of :data:`WRITES_PER_SWEEP` writes, by chance, a few pages of the table are looked
through, anywhere in it. So programs that live for a moment sweep as much as those that run for
months, and several of them are rarely in each other's way.
"""

from __future__ import annotations

import json
import random
from typing import Protocol

from attrs import evolve

from gogoscope.exceptions import PersistenceError, RecordTooLargeError, StoreTimeoutError
from gogoscope.persistence import (
    KEEP_MS,
    KEYS_PER_PAGE,
    NUMBERS_PER_MS,
    Clock,
    ClockSteps,
    CompareAndSwap,
    Entry,
    ServerClock,
    Swapped,
    corrupt_record,
)
from gogoscope.persistence.watching import Changed, Listener, Stop, never_told
from gogoscope.stores.postgres.client import Reply, Value
from gogoscope.stores.postgres.listening import advisory_lock
from gogoscope.stores.postgres.schema import FORMAT
from gogoscope.stores.postgres.statements import HIGHEST_NUMBER, Statements

LONGEST_KEY = 2048
LARGEST_CONTENT = 256 * 1024 * 1024
LARGEST_INTEGER = 2**63 - 1
WRITES_PER_SWEEP = 64
PAGES_PER_SWEEP = 16


class Asks(Protocol):
    """Runs statements, and knows the server's time."""

    clock: ServerClock

    async def run(self, statement: bytes, *values: Value, writes: bool = False) -> Reply:
        """Run a statement whose rows begin with the server's time."""
        ...


class PostgresEntries(CompareAndSwap):
    """A place for entries.

    :param client: what asks the server
    :param table: the quoted name of the table
    :param clock: what it tells the time by; the server's clock if left out
    :param listener: whom the server tells of changes, if anybody
    """

    def __init__(
        self, client: Asks, table: str, clock: Clock | None, listener: Listener | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._steps = None if clock is None else ClockSteps(clock)
        self.clock_was_set()
        self._statements = Statements(table)
        self._pages = 1
        self.listener = listener

    def now_ms(self) -> int:
        """Return the server's time, or that of the clock that this was made with."""
        if self._clock is not None:
            return int(self._clock.wall() * 1000)
        return self._client.clock.now_ms()

    def clock_error_ms(self) -> int:
        """Return by how many milliseconds it may be wrong about the server's time."""
        return 0 if self._clock is not None else self._client.clock.error_ms()

    def clock_was_set(self) -> bool:
        """Return whether that clock was set since it was first asked for."""
        return self._client.clock.was_set() if self._steps is None else self._steps.stepped()

    async def load(self, kind: str, key: str) -> Entry | None:
        """Return an entry as the newest completed write left it, ``None`` if there is none."""
        _check_key(key)
        reply = await self._client.run(self._statements.load, kind, key)
        return entry_of(kind, key, reply.rows[0][0]) if reply.rows else None

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        """Write ``new`` if the last writer is still that of ``seen``, in one statement."""
        if seen is None:
            reply = await self._write(self._statements.insert, kind, key, new)
        elif new.tell:
            told = (seen.writer, str(advisory_lock(_name(kind, key))))
            reply = await self._write(self._statements.update_and_tell, kind, key, new, *told)
        else:
            reply = await self._write(self._statements.update, kind, key, new, seen.writer)
        swapped = _swapped(kind, key, reply)
        if swapped.swapped:
            await self._sweep()
        return swapped

    async def put(self, kind: str, key: str, new: Entry) -> None:
        """Write ``new``, whatever is there; in one statement, unless that has a later number.

        Whatever is written has a higher number than what was there. So what is refused, and finds a
        lower number than its own, was not written, and is refused when it lands late.
        """
        swapped = _swapped(kind, key, await self._write(self._statements.put, kind, key, new))
        in_doubt = False
        while not swapped.swapped:
            found, in_doubt = swapped.found, in_doubt or swapped.in_doubt
            if found is not None and new.writer in found.writers:
                break
            if in_doubt and (found is None or found.number > new.number):
                if found is not None and self._was_put_later(found, new):
                    break  # It was replaced since, as far as anybody can see.
                raise StoreTimeoutError(
                    f"the {kind} {key!r} may have been written: the answer was lost, and others "
                    "have written since"
                )
            if found is not None and found.number >= new.number:
                new = evolve(new, number=found.number + 1)
            swapped = await self.swap(kind, key, found, new)
        await self._sweep()

    def _was_put_later(self, found: Entry, new: Entry) -> bool:
        """Return whether an entry was certainly put, and not only changed, after ``new`` began."""
        error = 2 * self.clock_error_ms() * NUMBERS_PER_MS
        return len(found.writers) == 1 and found.number > new.number + error

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        """Return a page of the keys that start with ``prefix``, and the last one of it."""
        if "\0" in prefix:
            return [], None
        reply = await self._client.run(
            self._statements.keys, kind, prefix, end_of(prefix), after, self.now_ms(), KEYS_PER_PAGE
        )
        page = [(row[0] or b"").decode() for row in reply.rows]
        return page, page[-1] if len(page) == KEYS_PER_PAGE else None

    def watch(self, kind: str, key: str, changed: Changed) -> Stop:
        """Call ``changed`` when the server tells of an entry, on a connection of its own."""
        return never_told if self.listener is None else self.listener.add(_name(kind, key), changed)

    async def clear(self, kind: str, prefix: str) -> None:
        """Remove every entry of a kind whose key starts with ``prefix``, page by page."""
        after: str | None = None
        while True:
            reply = await self._client.run(
                self._statements.clear,
                *(kind, prefix, end_of(prefix), after, KEYS_PER_PAGE),
                writes=True,
            )
            ((last,),) = reply.rows
            if last is None:
                return
            after = last.decode()

    async def _write(self, statement: bytes, kind: str, key: str, new: Entry, *more: str) -> Reply:
        _check_key(key)
        if "\0" in new.text:
            raise PersistenceError(
                f"the {kind} {key!r} contains NUL, which PostgreSQL cannot keep: use another codec"
            )
        if len(new.text) > LARGEST_CONTENT:
            raise RecordTooLargeError(
                f"the {kind} {key!r} has {len(new.text)} characters, but PostgreSQL keeps at most "
                f"{LARGEST_CONTENT} for this store"
            )
        purge_at = None if new.purge_at_ms is None else min(new.purge_at_ms, LARGEST_INTEGER)
        return await self._client.run(
            statement,
            *(kind, key, FORMAT, new.text, purge_at, new.number, new.writer),
            " ".join(new.writers),
            *more,
            writes=True,
        )

    async def _sweep(self) -> None:
        if random.randrange(WRITES_PER_SWEEP):  # noqa: S311 - no secret
            return
        begin = random.randrange(self._pages)  # noqa: S311 - likewise
        try:
            reply = await self._client.run(
                self._statements.sweep,
                *(f"({begin},0)", f"({begin + PAGES_PER_SWEEP},0)", self.now_ms() - KEEP_MS),
                writes=True,
            )
        except PersistenceError:
            return  # What was to be written is written, and others will sweep.
        ((pages,),) = reply.rows
        self._pages = max(1, int(pages or 1) - PAGES_PER_SWEEP + 1)


def _swapped(kind: str, key: str, reply: Reply) -> Swapped:
    if not reply.rows:
        return Swapped(swapped=False, found=None, in_doubt=reply.in_doubt)
    row = reply.rows[0][0]
    if row is None:
        return Swapped(swapped=True)
    return Swapped(swapped=False, found=entry_of(kind, key, row), in_doubt=reply.in_doubt)


def entry_of(kind: str, key: str, row: bytes | None) -> Entry:
    """Return the entry of a row in JSON."""
    columns = json.loads(row or b"{}")
    if columns.get("format") != FORMAT:
        unknown = ValueError(
            f"its format is {columns.get('format')}, and this gogoscope knows {FORMAT}"
        )
        raise corrupt_record(kind, key, unknown)
    if columns["number"] > HIGHEST_NUMBER:
        raise corrupt_record(kind, key, ValueError("its number is too high to be one of ours"))
    writers = tuple(columns["writers"].split(" "))
    if columns["writer"] != writers[-1]:  # no swap that goes by the one would find the other
        raise corrupt_record(kind, key, ValueError("its writer is not the last of its writers"))
    return Entry(columns["content"], columns["purge_at"], columns["number"], writers)


def _name(kind: str, key: str) -> str:
    return f"{kind}:{key}"


def _check_key(key: str) -> None:
    if len(key) > LONGEST_KEY // 4 and (size := len(key.encode())) > LONGEST_KEY:
        raise ValueError(
            f"key must have at most {LONGEST_KEY} bytes with its prefix, got {size}: {key[:80]!r}"
        )


def end_of(prefix: str) -> str | None:
    """Return the text below which all that starts with a prefix is; ``None`` if nothing is above.

    Texts are in the order of their code points, of which the surrogates are none.
    """
    start = prefix.rstrip("\U0010ffff")
    if not start:
        return None
    following = ord(start[-1]) + 1
    return start[:-1] + chr(0xE000 if following == 0xD800 else following)
