"""A store on a connection of its caller's: what it changes is a part of the caller's transaction.

The statements are those of the store itself. Each is sent once, and takes as long as the caller's
connection lets it: what bounds a statement, and what its error does to the transaction, is the
caller's to say. As long as the transaction is open, what it has changed waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gogoscope.exceptions import Effect, PersistenceError
from gogoscope.persistence import Codec, CompareAndSwapRecords, RecordStore
from gogoscope.stores.postgres.client import PostgresClient, Reply, Value
from gogoscope.stores.postgres.connection import TAG, Row, client
from gogoscope.stores.postgres.entries import PostgresEntries
from gogoscope.stores.postgres.errors import classify

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# Of libpq's PGTransactionStatusType.
_IDLE = 0


class Joint:
    """A connection of the caller's, which carries the store's statements as well.

    :param connection: the connection
    :param store: what asks the server for the store itself
    :raises TypeError: if it is another object
    :raises ValueError: if what it sends is committed at once
    """

    def __init__(self, connection: AsyncConnection[Any], store: PostgresClient) -> None:
        psycopg = client()
        if not isinstance(connection, psycopg.AsyncConnection):
            raise TypeError(
                "connection must be an AsyncConnection of psycopg, got one of type "
                f"{type(connection).__name__}"
            )
        self._connection = connection
        self._cursor_type = psycopg.AsyncRawCursor
        self.clock = store.clock
        if connection.autocommit and not self.in_transaction():
            raise ValueError(
                "connection must have a transaction open, since it commits each statement by "
                "itself; write async with connection.transaction()"
            )
        if connection.pgconn.pipeline_status:
            raise ValueError(
                "connection must not be in pipeline mode, since each statement is to be answered"
            )

    def in_transaction(self) -> bool:
        """Return whether a transaction is open."""
        return not self._connection.closed and self._connection.info.transaction_status != _IDLE

    async def run(self, statement: bytes, *values: Value, writes: bool = False) -> Reply:
        """Run a statement as a part of the transaction.

        :raises PersistenceError: if it failed; then the transaction has failed
        :raises ConfigurationError: if the store's table is not there
        """
        texts = [None if value is None else str(value) for value in values]
        cursor = self._cursor_type(self._connection)
        try:
            await cursor.execute(statement.replace(TAG, b"now"), texts)
        except Exception as error:
            failure = classify(error, sent=True)
            raised = failure.error(
                f"a statement in the transaction of the caller failed: {type(error).__name__}: "
                f"{error}".strip()
            )
            if isinstance(raised, PersistenceError):
                raised.effect = Effect.MAYBE_APPLIED if failure.maybe_applied else Effect.FAILED
            raise raised from error
        result = cursor.pgresult
        columns = range(1, result.nfields)
        rows: list[Row] = [
            [self._in_utf8(result.get_value(row, column)) for column in columns]
            for row in range(result.ntuples)
        ]
        return Reply(rows, in_doubt=False)

    def _in_utf8(self, value: bytes | None) -> bytes | None:
        """Return a text of the server's, which has the encoding of the connection."""
        return None if value is None else value.decode(self._connection.info.encoding).encode()


class JoinedEntries(PostgresEntries):
    """A place for entries whose changes are a part of the caller's transaction."""

    async def _sweep(self) -> None:
        return  # that is no part of what the caller does


class JoinedStore(RecordStore):
    """A store whose changes are a part of the caller's transaction.

    :param joint: the connection
    :param entries: the place for entries on it
    """

    def __init__(
        self,
        joint: Joint,
        entries: JoinedEntries,
        *,
        key_prefix: str,
        codec: Codec,
        max_clock_skew: float,
    ) -> None:
        super().__init__(
            CompareAndSwapRecords(entries),
            key_prefix=key_prefix,
            codec=codec,
            max_clock_skew=max_clock_skew,
        )
        self._joint = joint

    def in_transaction(self) -> bool:
        """Return whether the transaction is open."""
        return self._joint.in_transaction()
