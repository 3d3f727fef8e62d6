"""A SQLite file that coroutines use: in a worker thread, beside other processes.

SQLite blocks, so every use of the connection is a visit to one worker thread, and the event loop
never waits for the disk. SQLite lets one process write at a time. It would wait for the others in
the thread, where it can neither be cancelled nor let an urgent operation go first. So its own wait
is switched off (``timeout=0``), and an operation that finds the file busy waits on the event loop
and tries again. Invariants:

- Only the thread uses ``_connection``, and a fork, which closes it. The event loop takes it away,
  and lets the thread close it, where it cannot wait for the thread.
- An operation is one transaction, which is rolled back if anything goes wrong inside. A busy file
  is noticed before anything is written, so trying again is safe.
- ``_poller`` lets one task of this process try again at a time, so that many that wait do not
  storm the file. It is new with each opening, as ``_thread`` is, and an operation keeps to those
  that it began with: it ends with its opening, though the file may be open again by then.
- A forked process must not inherit a connection, not even to close it. SQLite would believe that
  the locks on the file, which are the parent's, are its own. Then whoever is the last to close the
  file removes its write-ahead log, while the forked process uses it. So a fork waits until the
  thread is outside of SQLite (``_inside``), and closes the connection; the next use opens it again.
  In between, ``_connection`` is ``None``, but ``_files`` are still those that were opened.
- Whoever removes or replaces a file that is open makes two stores of it, and two holders of each
  lock. So every use, when it is done, compares the files with those that were opened.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio

from gogoscope.exceptions import (
    CorruptRecordError,
    Effect,
    PersistenceError,
    RecordTooLargeError,
    StoreConnectionError,
    StoreTimeoutError,
)
from gogoscope.persistence import (
    Life,
    is_urgent,
    jittered,
    lock_across_forks,
    monotonic,
    nothing_done,
)
from gogoscope.stores.sqlite.identity import OpenFiles
from gogoscope.stores.sqlite.thread import ThreadGoneError, WorkerThread

FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.05

Result = TypeVar("Result")
SetUp = Callable[[sqlite3.Connection, str], None]


class SQLiteFile:
    """One connection to a file, used by one worker thread at a time.

    :param path: the file
    :param busy_timeout: how long to wait for other processes, in seconds
    :param set_up: makes a fresh connection to the path ready
    """

    _poller: anyio.Lock
    _thread: WorkerThread

    def __init__(self, path: str, busy_timeout: float, set_up: SetUp) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._set_up = set_up
        self._connection: sqlite3.Connection | None = None
        self._files: OpenFiles | None = None
        self._inside = lock_across_forks(self._part)
        self.life = Life(f"the SQLite store {path!r}")

    async def open(self) -> None:
        """Open the file and set it up."""
        self.life.begin()
        self._poller = anyio.Lock()
        self._thread = WorkerThread(f"gogoscope SQLite {self.path}")
        opening = self.life.opening
        try:
            await self._try_until_free(self._connect, self._thread, self._poller)
        except BaseException:
            await self._close(opening)
            raise

    async def close(self) -> None:
        """Close the file once the running operation has ended; shielded from cancellation.

        :raises PersistenceError: if the store belongs to another event loop that still runs
        """
        if self.life.may_close():
            await self._close(self.life.opening)

    async def _close(self, opening: object) -> None:
        if self.life.opening is not opening:
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._thread.run(functools.partial(self._disconnect, opening))
        except ThreadGoneError:  # it is closed, or the event loop that opened it has ended
            pass
        finally:
            if self.life.opening is opening:
                # It is still open after asyncio's own cancellation, which knows no shield.
                connection, self._connection = self._connection, None
                self._files = None
                shut = None if connection is None else functools.partial(self._shut, connection)
                self._thread.end(shut)
                self.life.end()

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run ``work`` in the thread, and try again as long as another process has the file.

        What is urgent goes before others that wait for the thread.

        :raises PersistenceError: if it failed, or no try succeeded within the busy timeout
        """
        self.life.check()
        attempt = functools.partial(self._use, work)
        thread, poller = self._thread, self._poller
        try:
            return await thread.run(attempt, urgent=is_urgent())
        except _BusyError:
            return await self._try_until_free(attempt, thread, poller)
        except ThreadGoneError:
            raise self._closed() from None

    async def _try_until_free(
        self, attempt: Callable[[], Result], thread: WorkerThread, poller: anyio.Lock
    ) -> Result:
        """Try again and again; thread and poller are those of the opening that this began in."""
        deadline = monotonic() + self._busy_timeout
        pause = FIRST_PAUSE
        with nothing_done:
            await poller.acquire()
        try:
            while True:
                try:
                    return await thread.run(attempt, urgent=is_urgent())
                except _BusyError as error:
                    if monotonic() >= deadline:
                        raise _too_busy(self.path, self._busy_timeout) from error.__cause__
                except ThreadGoneError:
                    raise self._closed() from None
                with nothing_done:
                    await anyio.sleep(jittered(pause))
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            poller.release()

    def _closed(self) -> PersistenceError:
        return PersistenceError(f"the SQLite store {self.path!r} is not open: it has been closed")

    def _use(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._inside:
            if self._files is None:
                raise self._closed()
            connection, files = self._connection or self._open_again(self._files), self._files
            try:
                try:
                    return work(connection)
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise _translated(error, self.path) from error
            finally:
                files.check()

    def _connect(self) -> None:
        _make_private(self.path)
        with self._inside:
            self._open(self.path)

    def _open_again(self, files: OpenFiles) -> sqlite3.Connection:
        """Open what a fork has closed, unless somebody has removed or replaced it meanwhile."""
        files.check_database()
        connection = self._open(files.database)
        try:
            files.check_database()
        except PersistenceError:
            self._part()
            self._files = files
            raise
        return connection

    def _open(self, path: str) -> sqlite3.Connection:
        try:
            # A fork closes it, in whichever thread that is.
            connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
            try:
                self._set_up(connection, self.path)
                self._files = OpenFiles(path)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error
        self._connection = connection
        return connection

    def _part(self) -> None:
        """Close the connection before a fork; it is opened again with the next use."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _disconnect(self, opening: object) -> None:
        with self._inside:
            if self.life.opening is not opening:
                return
            connection, self._connection, self._files = self._connection, None, None
            if connection is not None:
                self._shut_inside(connection)

    def _shut(self, connection: sqlite3.Connection) -> None:
        with self._inside:
            self._shut_inside(connection)

    def _shut_inside(self, connection: sqlite3.Connection) -> None:
        try:
            connection.close()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error


def _make_private(path: str) -> None:
    """Make a file that only its owner may read, if there is none; SQLite makes the others alike."""
    # Closing a file drops the locks that this process has on it, so nobody may open it meanwhile.
    with _making:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except OSError:
            return  # there is one, or SQLite says better why there can be none


_making: threading.Lock = lock_across_forks()


class _BusyError(PersistenceError):
    """Another process is writing to the file."""


def _too_busy(path: str, timeout: float) -> StoreTimeoutError:
    error = StoreTimeoutError(
        f"other processes kept the SQLite store {path!r} busy for {timeout:g} s; nothing was done"
    )
    error.effect = Effect.FAILED
    return error


def _translated(error: sqlite3.Error, path: str) -> PersistenceError:
    # The low byte is the primary code; errors of the Python module itself have none.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kinds: dict[int, type[PersistenceError]] = {
        sqlite3.SQLITE_BUSY: _BusyError,
        sqlite3.SQLITE_LOCKED: _BusyError,
        sqlite3.SQLITE_PROTOCOL: _BusyError,
        sqlite3.SQLITE_CORRUPT: CorruptRecordError,
        sqlite3.SQLITE_NOTADB: CorruptRecordError,
        sqlite3.SQLITE_CANTOPEN: StoreConnectionError,
        sqlite3.SQLITE_IOERR: StoreConnectionError,
        sqlite3.SQLITE_TOOBIG: RecordTooLargeError,
    }
    kind = kinds.get(code, PersistenceError)
    hint = f"; {_HINTS[code]}" if code in _HINTS else ""
    return kind(f"the SQLite store {path!r} failed: {error}{hint}")


_HINTS = {
    sqlite3.SQLITE_FULL: "free some space and try again",
    sqlite3.SQLITE_IOERR: "the disk may be full, gone or broken",
    sqlite3.SQLITE_READONLY: "this process may not write to the file or to its folder",
    sqlite3.SQLITE_CANTOPEN: "its folder must exist and let this process write",
    sqlite3.SQLITE_CORRUPT: "restore the file from a copy, or move it away to begin anew",
    sqlite3.SQLITE_NOTADB: "name another file, or move this one away to begin anew",
}
