"""Statements to one server: bounded in time, sent again where that is safe, honest about doubt.

A statement can fail although the server has carried it out: the answer was lost. Sending it again
is safe, since each one has a condition that its own effect breaks. So the second try may be refused
because the first one was carried out; the reply then says that it is ``in_doubt``. Invariants:

- A request has one budget: three timeouts, and the time that its bytes need on a slow link. It
  counts from the call; while the server answers others, waiting for a connection costs none of it.
  No try takes longer than a timeout, connecting included.
- A write that may have been carried out and was not answered raises ``StoreTimeoutError``, whatever
  its last try came to. A read is never in doubt.
- Nothing but this project's exceptions leaves a request, each with its cause.
- Some connections are kept free for what is urgent: so no lease is lost because many values are
  written.

Mutable state: the connections that nobody uses, of which the last one used is taken first; the
rooms in which requests wait, made anew with each opening; and the server's clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from attrs import define, frozen

from gogoscope.exceptions import (
    Effect,
    GogoscopeError,
    PersistenceError,
    StoreTimeoutError,
    UnexpectedStoreError,
)
from gogoscope.persistence import (
    Life,
    Room,
    ServerClock,
    is_urgent,
    monotonic,
    pause_before_try,
    time_of_try,
    uniform,
)
from gogoscope.stores.postgres.connection import Connection, Row, milliseconds, parse
from gogoscope.stores.postgres.errors import NOT_SENT, UNANSWERED, Failure, classify

MOST_TRIES = 6
PATIENCE_IN_TIMEOUTS = 3
FIRST_DELAY = 0.02
LONGEST_DELAY = 1.0
CONNECTIONS_PER_URGENT_ONE = 5
SLOWEST_LINK = 1_000_000  # bytes a second

Value = str | int | None


@frozen
class Reply:
    """The rows of an answer, without the server's time in front.

    ``in_doubt`` says whether an earlier try may have been carried out.
    """

    rows: list[Row]
    in_doubt: bool


class PostgresClient:
    """What asks one server.

    :param conninfo: a connection string or URL of libpq
    :param timeout: how long one try of a request may take, in seconds
    :param connections: how many connections there are at most
    """

    def __init__(self, conninfo: str, timeout: float, connections: int) -> None:
        self.timeout = timeout
        self.conninfo = conninfo
        self._connections = connections
        self.where = _where(parse(conninfo))
        self.life = Life(f"the PostgreSQL store {self.where!r}", asyncio_for="psycopg")
        self.clock = ServerClock()
        self._idle: list[Connection] = []
        self._make_rooms()

    def open(self) -> None:
        """Begin to connect as it is needed."""
        self.life.begin()
        self.clock = ServerClock()
        self._make_rooms()

    def close(self, opening: object) -> None:
        """Close all connections; those in use are closed when they were answered.

        :param opening: which opening ends; one that has followed it lasts
        :raises PersistenceError: if the store belongs to another event loop that still runs
        """
        if self.life.opening is not opening or not self.life.may_close():
            return
        self.life.end()
        self._drop_idle()

    async def run(
        self,
        statement: bytes,
        *values: Value,
        writes: bool = False,
    ) -> Reply:
        """Run a statement whose rows begin with the server's time.

        :param values: those of its parameters
        :param writes: whether it may change anything
        :raises PersistenceError: if it failed
        :raises ConfigurationError: if the server lets nobody in, or the table is missing
        """
        encoded = [_encoded(value) for value in values]
        size = sum(len(value) for value in encoded if value is not None)
        request = _Request(self, statement, encoded, writes)
        return await request.run(time_of_try(self.timeout) + size / SLOWEST_LINK)

    def place(self, patience: float) -> AbstractAsyncContextManager[float]:
        """Wait until there may be one more request, and let it be for the length of a block.

        The block begins with the seconds of waiting that cost nothing.
        """
        return self.room.place(patience) if is_urgent() else self._place_of_other(patience)

    @asynccontextmanager
    async def _place_of_other(self, patience: float) -> AsyncIterator[float]:
        called = monotonic()
        async with self._room_of_others.place(patience) as waited:
            left = patience - (monotonic() - called - waited)
            async with self.room.place(left) as waited_more:
                yield waited + waited_more

    async def connection(self) -> Connection:
        """Return a connection that nobody uses."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_ready():
                return connection
            connection.close()
        return await Connection.open(self.conninfo)

    def take_back(self, connection: Connection, era: object) -> None:
        """Keep a connection for the next request, unless it or the store was closed meanwhile.

        :param era: what :attr:`era` was when the connection was taken
        """
        if era is self.era and self.life.open and connection.is_open:
            self._idle.append(connection)
        else:
            connection.close()

    @property
    def era(self) -> object:
        """What is another object after each opening."""
        return self.room

    def failed(
        self, failure: Failure, tried: int, *, in_doubt: bool, cause: Exception | None
    ) -> GogoscopeError:
        """Return the error of a request that failed."""
        kind = failure.error
        if in_doubt and kind is not UnexpectedStoreError:
            kind = StoreTimeoutError
        tries = "1 try" if tried == 1 else f"{tried} tries"
        told = "no answer" if cause is None else f"{type(cause).__name__}: {cause}".strip()
        error = kind(f"a request to PostgreSQL at {self.where!r} failed after {tries}: {told}")
        if isinstance(error, PersistenceError):
            error.effect = Effect.MAYBE_APPLIED if in_doubt else Effect.FAILED
        return error

    def _make_rooms(self) -> None:
        kept_free = max(1, self._connections // CONNECTIONS_PER_URGENT_ONE)
        self.room = Room(self._connections)
        self._room_of_others = Room(max(1, self._connections - kept_free), beside=self.room)

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


@define(eq=False)
class _Request:
    """One request: what it may still take, and what its tries have done.

    ``_tried`` counts its tries, and ``_in_doubt`` says whether one may have been carried out.
    ``_sent`` says so of the present try.
    """

    _client: PostgresClient
    _statement: bytes
    _values: Sequence[bytes | None]
    _writes: bool
    _tried: int = 0
    _in_doubt: bool = False
    _sent: bool = False

    async def run(self, timeout: float) -> Reply:
        """Send it until it is answered or its budget is spent.

        :param timeout: how long one try may take, in seconds
        """
        deadline = monotonic() + PATIENCE_IN_TIMEOUTS * timeout
        while True:
            cause: Exception | None = None
            self._sent = False
            try:
                self._client.life.check()
                patience = max(0.0, deadline - monotonic())
                room = self._client.room
                async with self._client.place(patience) as waited:
                    deadline += waited
                    with anyio.move_on_after(min(timeout, deadline - monotonic())):
                        self._tried += 1
                        rows = await self._ask()
                        room.answered = monotonic()
                        return Reply(rows, self._in_doubt)
                failure = UNANSWERED if self._sent else NOT_SENT
            except GogoscopeError as error:
                if not self._in_doubt:
                    raise
                raise self._client.failed(
                    UNANSWERED, self._tried, in_doubt=True, cause=error
                ) from error
            except Exception as error:  # noqa: BLE001 - classified, and raised as one of ours
                failure, cause = classify(error, sent=self._sent), error
            self._in_doubt = self._in_doubt or (failure.maybe_applied and self._writes)
            delay = uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**self._tried))
            if (
                not failure.retry
                or self._tried >= MOST_TRIES
                or not await pause_before_try(delay, timeout=timeout, deadline=deadline)
            ):
                break
        raise self._client.failed(
            failure, self._tried, in_doubt=self._in_doubt, cause=cause
        ) from cause

    async def _ask(self) -> list[Row]:
        client, era = self._client, self._client.era
        connection = await client.connection()
        self._sent = True
        sent = monotonic()
        try:
            rows = await connection.ask(self._statement, self._values)
        finally:
            received = monotonic()
            client.take_back(connection, era)
        if rows and (shown := rows[0][0]) is not None:
            client.clock.learn(milliseconds(shown), sent, received)
        return [row[1:] for row in rows]


def _encoded(value: Value) -> bytes | None:
    return None if value is None else str(value).encode()


def _where(parts: dict[str, Any]) -> str:
    """Return where a database is, for messages."""
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{host}{port}/{parts.get('dbname') or ''}"
