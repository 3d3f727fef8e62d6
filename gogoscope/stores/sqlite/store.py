"""A store in one SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

from gogoscope.exceptions import CorruptRecordError, InvalidURLError
from gogoscope.persistence import (
    KEYS_PER_PAGE,
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
    check_clock,
    check_key_prefix,
    corrupt_record,
    current_clock,
    leave_out,
    seconds,
)
from gogoscope.stores.sqlite.examination import findings
from gogoscope.stores.sqlite.file import SQLiteFile
from gogoscope.stores.sqlite.schema import set_up

BUSY_TIMEOUT = 30.0
WRITES_PER_SWEEP = 64
ROWS_PER_SWEEP = 256
LARGEST_INTEGER = 2**63 - 1


class SQLiteStore(RecordStore):
    """Locks, circuit breakers and a cache in one file, for the processes of one machine.

    It is open inside ``async with``, and must be used by the event loop and the process that
    entered it; then it may be opened again. Every operation is a checkpoint and one visit to a
    worker thread. Cancelled before the visit, it has done nothing; cancelled later, it is
    completed. Reads and writes of many keys are one visit, and one transaction, for each thousand,
    so that others get their turn. Operations on locks go before others that wait. A write survives
    a crash of the program; just before a loss of power it may be lost, but only as a whole. The
    file must not be on a network drive.

    :param path: the file; it is made if missing, its folder is not
    :param key_prefix: stands before every key; ends with one of ``: / . | #``
    :param clock: what it tells the time by
    :param codec: turns cached values into text and back; JSON if left out
    :param max_clock_skew: how much later than its lease a dead holder's lock is taken over, in
        seconds; one machine has one clock, so 0 is enough
    :param busy_timeout: how long an operation waits for other processes, in seconds, before it
        raises ``StoreTimeoutError``, having done nothing
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key_prefix: str = "",
        clock: Clock = current_clock,
        codec: Codec | None = None,
        max_clock_skew: float | timedelta = 0.0,
        busy_timeout: float | timedelta = BUSY_TIMEOUT,
    ) -> None:
        timeout = seconds("busy_timeout", busy_timeout, zero=True)
        self._file = SQLiteFile(_check_path(path), timeout, set_up)
        self._life = self._file.life
        super().__init__(
            _SQLiteRecords(self._file, clock),
            key_prefix=key_prefix,
            codec=codec,
            max_clock_skew=max_clock_skew,
        )

    def __repr__(self) -> str:
        return f"<SQLiteStore path={self._file.path!r} key_prefix={self._key_prefix!r}>"

    async def __aenter__(self) -> Self:
        await self._file.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file, as leaving the block does; the store may be opened again.

        What runs is completed before. A second call does nothing.

        :raises PersistenceError: if the store belongs to another event loop that still runs
        """
        await self._file.close()

    async def examine(self) -> list[Finding]:
        """Look at the file, and at its disk.

        :raises PersistenceError: if it cannot be read
        """
        path = self._file.path
        return await self._file.run(lambda connection: findings(connection, path))

    async def describe_scan(self) -> str:
        """Return what a method such as ``keys()`` or ``locks()`` reads, for a sentence."""
        below = f" below {self._key_prefix!r}" if self._key_prefix else ""
        return f"the rows of that kind{below} from the file {self._file.path!r}, by its index"


def from_url(url: PersistenceURL) -> SQLiteStore:
    """Return the store of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

    Options: ``key_prefix``, ``busy_timeout`` and ``max_clock_skew`` (both in seconds).

    :raises InvalidURLError: if the path is missing or an option is malformed or unknown
    """
    options = url.convert_options(
        key_prefix=check_key_prefix, busy_timeout=float, max_clock_skew=float
    )
    if not url.url[len(url.scheme) :].startswith(":///"):
        raise InvalidURLError(
            f"{str(url)!r} is not sqlite:///relative.db or sqlite:////absolute.db"
        )
    try:
        return SQLiteStore(url.location[1:], **options)
    except ValueError as error:
        raise InvalidURLError(f"{str(url)!r}: {error}") from error


class _SQLiteRecords(Records):
    """Records in the rows of one table.

    Now and then a write first looks at the next rows and removes those that are gone, so that
    the file holds little more than what is alive.
    """

    def __init__(self, file: SQLiteFile, clock: Clock) -> None:
        self._file = file
        self._clock = check_clock(clock)
        self._writes = 0
        self._swept_to: tuple[bytes, bytes] = _FIRST

    def now_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def steady(self) -> Steady:
        return Steady.of(self._clock)

    async def read(self, kind: Kind[Record], key: str) -> Record | None:
        return await self._file.run(
            lambda connection: self._find(connection, kind, key, self.now_ms())
        )

    async def transact(
        self, kind: Kind[Record], key: str, change: Change[Record, Answer]
    ) -> Answer:
        def work(connection: sqlite3.Connection) -> Answer:
            connection.execute("BEGIN IMMEDIATE")
            now_ms = self.now_ms()
            self._sweep(connection, now_ms)
            record = self._find(connection, kind, key, now_ms)
            changed, answer = change(record, now_ms)
            if changed is None:
                connection.execute(_DELETE, (kind.name, key))
            elif changed is not record:
                self._put(connection, kind, key, changed, now_ms)
            connection.execute("COMMIT")
            return answer

        return await self._file.run(work)

    async def write(self, kind: Kind[Record], key: str, make: Callable[[int], Record]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            now_ms = self.now_ms()
            self._sweep(connection, now_ms)
            self._put(connection, kind, key, make(now_ms), now_ms)

        await self._file.run(work)

    async def read_many(self, kind: Kind[Record], keys: Sequence[str]) -> dict[str, Record]:
        def work(connection: sqlite3.Connection) -> dict[str, Record]:
            connection.execute("BEGIN")
            now_ms = self.now_ms()
            found = {key: self._find(connection, kind, key, now_ms) for key in keys}
            connection.execute("COMMIT")
            return {key: record for key, record in found.items() if record is not None}

        return await self._file.run(work)

    async def write_many(
        self, kind: Kind[Record], keys: Sequence[str], make: Callable[[str, int], Record | None]
    ) -> None:
        def work(connection: sqlite3.Connection, page: Sequence[str]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            now_ms = self.now_ms()
            self._sweep(connection, now_ms)
            for key in page:
                record = make(key, now_ms)
                if record is None:
                    connection.execute(_DELETE, (kind.name, key))
                else:
                    self._put(connection, kind, key, record, now_ms)
            connection.execute("COMMIT")

        # Page by page, so that others, who may have a lease to renew, get their turn in between.
        for begin in range(0, len(keys) or 1, KEYS_PER_PAGE):
            await self._file.run(partial(work, page=keys[begin : begin + KEYS_PER_PAGE]))

    async def keys_after(
        self, kind: Kind[Any], prefix: str, after: str | None
    ) -> tuple[list[str], str | None]:
        # No key lies between another one and the same with a NUL behind it.
        begin = (prefix if after is None else after + "\0").encode(errors="surrogateescape")
        rows = await self._file.run(
            lambda connection: connection.execute(
                _PAGE_OF_KEYS, (kind.name, begin, _end(prefix), self.now_ms(), KEYS_PER_PAGE)
            ).fetchall()
        )
        page = [key.decode(errors="surrogateescape") for (key,) in rows]
        following = page[-1] if len(page) == KEYS_PER_PAGE else None
        return [key for key in page if _is_key(kind, key)], following

    async def keys(self, kind: Kind[Any], prefix: str) -> list[str]:
        found, after = await self.keys_after(kind, prefix, None)
        while after is not None:
            page, after = await self.keys_after(kind, prefix, after)
            found += page
        return found

    async def clear(self, kind: Kind[Any], prefix: str) -> None:
        await self._file.run(
            lambda connection: connection.execute(
                _CLEAR if prefix else _CLEAR_ALL,
                {"kind": kind.name, "begin": prefix, "end": _end(prefix), "bytes": prefix.encode()},
            )
        )

    def _find(
        self, connection: sqlite3.Connection, kind: Kind[Record], key: str, now_ms: int
    ) -> Record | None:
        row = connection.execute(_FIND, (kind.name, key, now_ms)).fetchone()
        if row is None:
            return None
        try:
            return kind.restore(key, *row)
        except CorruptRecordError as error:
            error.add_note(f"it is in the SQLite store {self._file.path!r}")
            raise

    def _put(
        self,
        connection: sqlite3.Connection,
        kind: Kind[Record],
        key: str,
        record: Record,
        now_ms: int,
    ) -> None:
        purge_at_ms = kind.purge_at_ms(record, now_ms)
        if purge_at_ms is not None:
            purge_at_ms = min(purge_at_ms, LARGEST_INTEGER)
        connection.execute(_PUT, (kind.name, key, purge_at_ms, kind.dump(record)))

    def _sweep(self, connection: sqlite3.Connection, now_ms: int) -> None:
        self._writes += 1
        if self._writes % WRITES_PER_SWEEP:
            return
        end = connection.execute(_SWEEP_END, (*self._swept_to, ROWS_PER_SWEEP)).fetchone()
        connection.execute(_SWEEP, (*self._swept_to, *(end or _LAST), now_ms))
        self._swept_to = end or _FIRST


def _check_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"path must be a str or a path, got {path!r} of type {type(path).__name__}")
    if not text or text == ":memory:" or "\0" in text:
        raise ValueError(
            f"path must name a file, got {text!r}; for a store in memory use 'memory:'"
        )
    return text


def _is_key(kind: Kind[Any], key: str) -> bool:
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            leave_out(corrupt_record(kind.name, key, error))
            return False
    return True


def _end(prefix: str) -> bytes:
    # In UTF-8 no byte is 0xFF, so this is above every text that starts with the prefix.
    return prefix.encode() + b"\xff"


_FIND = """
SELECT content, purge_at FROM records
WHERE kind = ? AND key = ? AND (purge_at IS NULL OR purge_at > ?)
"""
_PUT = """
INSERT INTO records (kind, key, purge_at, content) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET purge_at = excluded.purge_at, content = excluded.content
"""
_DELETE = "DELETE FROM records WHERE kind = ? AND key = ?"
_PAGE_OF_KEYS = """
SELECT key FROM records
WHERE kind = ? AND key >= CAST(? AS TEXT) AND key < CAST(? AS TEXT)
AND (purge_at IS NULL OR purge_at > ?)
ORDER BY key LIMIT ?
"""
# What is no text, and so no key, is removed, too, if it is below the prefix.
_CLEAR_ALL = "DELETE FROM records WHERE kind = :kind"
_CLEAR = """
DELETE FROM records WHERE kind = :kind AND ((key >= :begin AND key < CAST(:end AS TEXT))
OR (key >= x'' AND substr(key, 1, length(:bytes)) = :bytes))
"""
_SWEEP_END = """
SELECT kind, key FROM records WHERE (kind, key) > (CAST(? AS TEXT), CAST(? AS TEXT))
ORDER BY kind, key LIMIT 1 OFFSET ?
"""
_SWEEP = """
DELETE FROM records WHERE (kind, key) > (CAST(? AS TEXT), CAST(? AS TEXT))
AND (kind, key) <= (CAST(? AS TEXT), CAST(? AS TEXT)) AND purge_at <= ?
"""
_FIRST = (b"", b"")
_LAST = ("\U0010ffff".encode(), b"")
