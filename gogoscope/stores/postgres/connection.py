"""One connection to a server, which carries one statement at a time.

The client connects, and libpq, through the client's wrapper of it, sends statements and reads
answers. The client's own cursors are left out: a statement that is cancelled would wait for the
server first, and each one would be parsed once more here. Invariants:

- A connection whose statement was not answered with rows, for whatever reason, is closed: the next
  statement on it would get that answer, or that error once more.
- Each statement names its first column differently, and so does its answer. So no answer is taken
  for that of another statement, whatever is between here and the server.
- Nothing is left on the server between two statements: no transaction, no prepared statement, no
  setting. So it does not matter which connection of a pool before the server runs the next one.

This is the only module that imports the client.
"""

from __future__ import annotations

import functools
import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from gogoscope.exceptions import BackendUnavailableError, InvalidURLError

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.pq.abc import PGresult

Row = Sequence[bytes | None]

TAG = b"%TAG"
"""Stands in a statement for the name of its first column."""

# Of libpq's ConnStatusType and ExecStatusType.
_CONNECTION_OK = 0
_COMMAND_OK, _TUPLES_OK = 1, 2
_BINARY = 1


def client() -> Any:
    """Import the client, which takes some time.

    :raises BackendUnavailableError: if it is not installed
    """
    try:
        import psycopg  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise BackendUnavailableError(
            "PostgreSQL needs psycopg; install it with: pip install 'gogoscope[postgres]' (and "
            f"libpq, or 'psycopg[binary]', which brings it): {error}"
        ) from error
    return psycopg


def parse(conninfo: str) -> dict[str, Any]:
    """Return the parts of a connection string or URL of libpq.

    :raises InvalidURLError: if it is malformed; the error does not quote it
    """
    psycopg = client()
    parts: dict[str, Any] = {}
    try:
        parts = psycopg.conninfo.conninfo_to_dict(conninfo)
        ports = str(parts.get("port", "")).split(",")
        # With a slash in it, as it is, a password would be taken for a port and a database.
        is_odd = any(port and not port.isdecimal() for port in ports) or (
            conninfo.startswith(("postgresql:", "postgres:")) and "@" in urlsplit(conninfo).path
        )
    except (psycopg.Error, ValueError):  # it may quote a password
        is_odd = True
    if is_odd:
        raise InvalidURLError(
            "the connection string is malformed; write for example "
            "'postgresql://user:password@host:5432/database', with %40 for an @ and %2F for a / "
            "in the password"
        )
    return parts


def options() -> frozenset[str]:
    """Return the names of libpq's options."""
    return frozenset(option.keyword.decode() for option in client().pq.Conninfo.get_defaults())


class ForeignAnswerError(Exception):
    """An answer that is not the one to the statement, so that the connection is of no more use."""


class Connection:
    """An open connection."""

    # _asked counts the statements; the next one names its first column by that number.
    __slots__ = ("_asked", "_has_data", "_libpq", "_opened")

    def __init__(self, opened: AsyncConnection[Any]) -> None:
        self._opened = opened
        self._libpq = opened.pgconn
        self._has_data = _look_at(self._libpq.socket)
        self._asked = 0

    @classmethod
    async def open(cls, conninfo: str) -> Connection:
        """Connect.

        :raises Exception: any that the client raises
        """
        return cls(
            await client().AsyncConnection.connect(
                conninfo,
                autocommit=True,
                client_encoding="UTF8",
                fallback_application_name="gogoscope",
            )
        )

    @property
    def is_open(self) -> bool:
        """Whether it is open, as far as is known."""
        return bool(self._libpq.status == _CONNECTION_OK)

    def is_ready(self) -> bool:
        """Return whether it is open, and has nothing to say before it was asked.

        What has something to say was closed by the server, as a rule.
        """
        return self.is_open and not self._has_data()

    async def ask(self, statement: bytes, values: Sequence[bytes | None]) -> list[Row]:
        """Send a statement, and return the rows of its answer.

        Cancelling closes the connection; the statement may have been carried out.

        :param statement: in which :data:`TAG` stands for the name of its first column
        :raises Exception: the client's error for what the server, or the connection, says
        """
        self._asked += 1
        tag = b"%d" % self._asked
        try:
            return _rows(await self._exchange(statement.replace(TAG, tag), values), tag)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, statement: bytes, values: Sequence[bytes | None]) -> PGresult:
        libpq = self._libpq
        socket = libpq.socket
        libpq.send_query_params(statement, values, result_format=_BINARY)
        while libpq.flush():
            await anyio.wait_writable(socket)
        last = None
        while True:
            while libpq.is_busy():
                await anyio.wait_readable(socket)
                libpq.consume_input()
            result = libpq.get_result()
            if result is None:
                assert last is not None, "libpq returns a result for each statement"
                return last
            last = result

    @property
    def process(self) -> int:
        """The process of the server, as it was told when the client logged in."""
        return self._libpq.backend_pid

    async def told(self) -> list[bytes]:
        """Wait for what the server tells unasked, on the channels that are listened to."""
        libpq = self._libpq
        while True:
            libpq.consume_input()
            found = []
            while (message := libpq.notifies()) is not None:
                found.append(message.extra)
            if found:
                return found
            await anyio.wait_readable(libpq.socket)

    def close(self) -> None:
        """Close it, without waiting for anything."""
        self._libpq.finish()


def _rows(result: PGresult, tag: bytes) -> list[Row]:
    """Return the rows of an answer whose first column must have the name ``tag``.

    They are in the server's binary format, in which a text is its UTF-8.
    """
    if result.status == _COMMAND_OK:
        return []
    if result.status != _TUPLES_OK:
        error: Exception = client().errors.error_from_result(result, "utf-8")
        raise error
    if result.fname(0) != tag:
        raise ForeignAnswerError("the answer to another statement was received")
    columns = range(result.nfields)
    return [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]


def _look_at(descriptor: int) -> Callable[[], object]:
    """Return what tells whether there is something to read, the end included, without waiting."""
    if not hasattr(select, "poll"):
        return lambda: select.select([descriptor], [], [], 0)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return functools.partial(poll.poll, 0)


def milliseconds(timestamp: bytes) -> int:
    """Return a time in the server's binary format as milliseconds since the Unix epoch."""
    return _EPOCH_MS + int.from_bytes(timestamp, "big", signed=True) // 1000


_EPOCH_MS = 946_684_800_000
"""Of the year 2000, from which the server counts microseconds."""
