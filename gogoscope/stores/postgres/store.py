"""A store in one table of a PostgreSQL database, shared by the whole fleet."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote, urlsplit

import anyio

from gogoscope.exceptions import InvalidURLError, PersistenceError
from gogoscope.persistence import (
    Clock,
    Codec,
    CompareAndSwapRecords,
    Finding,
    PersistenceURL,
    RecordStore,
    check_clock,
    check_count,
    check_key_prefix,
    check_max_clock_skew,
    seconds,
)
from gogoscope.persistence.rate_records import RateReply
from gogoscope.persistence.records.rate_limits import RATES
from gogoscope.persistence.watching import Ear, Listener
from gogoscope.stores.postgres import examination
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.stores.postgres.connection import options
from gogoscope.stores.postgres.entries import PostgresEntries
from gogoscope.stores.postgres.joined import JoinedEntries, JoinedStore, Joint
from gogoscope.stores.postgres.listening import open_ear
from gogoscope.stores.postgres.rates import PostgresRates
from gogoscope.stores.postgres.schema import check_table, set_up

if TYPE_CHECKING:
    from psycopg import AsyncConnection

REQUEST_TIMEOUT = 2.0
POOL_SIZE = 10
MAX_CLOCK_SKEW = 0.05
TABLE = "gogoscope"


class PostgresStore(RecordStore):
    """Locks, circuit breakers and a cache in one table, for all who reach the database.

    It is open inside ``async with``, and must be used by the event loop and the process that
    entered it, which must be one of asyncio's; then it may be opened again. Every change is one
    statement, which is a transaction of its own. It needs no connection of its own between two
    statements, so it works through a pooler such as pgbouncer.

    The time is the server's, as its answers tell it.

    :param conninfo: a URL or another connection string of libpq
    :param table: the table, with or without a schema and a ``.`` in front
    :param key_prefix: stands before every key; ends with one of ``: / . | #``
    :param clock: what it tells the time by; the server's clock if left out
    :param codec: turns cached values into text and back; JSON if left out
    :param max_clock_skew: how much later than its lease a dead holder's lock is taken over, in
        seconds. By how much this process may be wrong about the server's time is added to it; it
        has to cover that of the others, which is at most half of their round trip.
    :param request_timeout: how long one try of a request may take, in seconds; after three
        timeouts a request is given up
    :param pool_size: how many connections it has at most; a fifth of them is kept free for
        renewals and releases of leases
    :param create: whether to make the table if it does not exist
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if an argument is malformed or out of range
    :raises InvalidURLError: if ``conninfo`` is malformed
    :raises BackendUnavailableError: if psycopg is not installed
    """

    def __init__(
        self,
        conninfo: str,
        *,
        table: str = TABLE,
        key_prefix: str = "",
        clock: Clock | None = None,
        codec: Codec | None = None,
        max_clock_skew: float | timedelta = MAX_CLOCK_SKEW,
        request_timeout: float | timedelta = REQUEST_TIMEOUT,
        pool_size: int = POOL_SIZE,
        create: bool = False,
    ) -> None:
        if not isinstance(conninfo, str):
            raise TypeError(f"conninfo must be a str, got one of type {type(conninfo).__name__}")
        if not isinstance(create, bool):
            raise TypeError(f"create must be True or False, got {create!r}")
        check_count("pool_size", pool_size)
        self._table = check_table(table)
        self._create = create
        self._client = PostgresClient(
            conninfo, seconds("request_timeout", request_timeout), pool_size
        )
        self._life = self._client.life
        self._clock = None if clock is None else check_clock(clock)
        self._listener = Listener(self._listen)
        self._entries = PostgresEntries(self._client, self._table, self._clock, self._listener)
        self._rates = PostgresRates(self._client, self._table, self._clock)
        self._swapping = CompareAndSwapRecords(self._entries)
        super().__init__(
            self._swapping,
            key_prefix=key_prefix,
            codec=codec,
            max_clock_skew=max_clock_skew,
        )

    def __repr__(self) -> str:
        return (
            f"<PostgresStore {self._client.where!r} table={self._table} "
            f"key_prefix={self._key_prefix!r}>"
        )

    async def __aenter__(self) -> Self:
        self._client.open()
        opening = self._life.opening
        try:
            await set_up(self._client, self._table, create=self._create)
        except BaseException:
            self._client.close(opening)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _listen(self) -> Ear | None:
        with anyio.fail_after(self._client.timeout):
            return await open_ear(self._client.conninfo)

    def joined(self, connection: AsyncConnection[Any]) -> JoinedStore:
        """Return a store whose changes are a part of the transaction of a connection.

        Each makes its row wait for the end of the transaction, and those who want to change it.

        :param connection: one of psycopg to the same database
        :raises TypeError: if it is another object
        :raises ValueError: if what it sends is committed at once
        """
        joint = Joint(connection, self._client)
        return JoinedStore(
            joint,
            JoinedEntries(joint, self._table, self._clock),
            key_prefix=self._key_prefix,
            codec=self._codec,
            max_clock_skew=self._skew_ms / 1000,
        )

    async def reserve_rate(self, name: str, cost_us: int, burst_us: int, wait_us: int) -> RateReply:
        """Reserve a place in one write, or learn from the refusal when there will be one."""
        key = self._full_key(name)
        try:
            told = await self._rates.reserve(key, cost_us, burst_us, wait_us)
        except PersistenceError as error:
            if error.retryable:
                raise
            await self.read_rate(name)  # What is there is no number: that tells more of it.
            told = None
        if told is None:
            return await super().reserve_rate(name, cost_us, burst_us, wait_us)
        reply, entry = told
        self._swapping.note(RATES, key, entry, written=reply.granted)
        return reply

    async def aclose(self) -> None:
        """Close its connections, as leaving the block does; the store may be opened again.

        What runs is answered before its connection is closed. A second call does nothing.

        :raises PersistenceError: if the store belongs to another event loop that still runs
        """
        if not self._life.may_close():
            return
        opening = self._life.opening
        try:
            await self._listener.close(orphaned=self._life.orphaned)
        finally:  # asyncio's own cancellation knows no shield
            self._client.close(opening)

    async def examine(self) -> list[Finding]:
        """Look at the server, and at what this user may do with the table.

        :raises PersistenceError: if it does not answer
        """
        return await examination.examine(self._client, self._table)

    async def describe_scan(self) -> str:
        """Return what a method such as ``keys()`` or ``locks()`` reads, for a sentence.

        :raises PersistenceError: if the server does not answer
        """
        return await examination.describe_scan(self._client, self._table, self._key_prefix)


def from_url(url: PersistenceURL) -> PostgresStore:
    """Return the store of a URL like ``postgresql://user:password@host:5432/database?create=true``.

    Enter it with ``async with`` to open it. User and password may be percent-encoded. The options
    are those of :class:`PostgresStore` with the same names; all others are those of libpq.

    :raises InvalidURLError: if the URL is malformed, or an option is malformed or unknown
    """
    own = {
        "table": _table,
        "key_prefix": check_key_prefix,
        "max_clock_skew": lambda text: check_max_clock_skew(float(text)),
        "request_timeout": lambda text: seconds("request_timeout", float(text)),
        "pool_size": lambda text: check_count("pool_size", int(text)),
        "create": _boolean,
    }
    of_libpq = dict.fromkeys(options() & url.options.keys() - own.keys(), str)
    converted = url.convert_options(**own, **of_libpq)
    settings = {name: value for name, value in converted.items() if name in own}
    try:
        return PostgresStore(_conninfo(url, own), **settings)
    except InvalidURLError as error:
        raise InvalidURLError(f"{str(url)!r}: {error}") from None


def _conninfo(url: PersistenceURL, own: object) -> str:
    """Return the URL for libpq: without our own options, and with escapes for user and password."""
    parts = urlsplit(url.url)
    login, at, servers = url.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    escaped = quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")
    query = "&".join(
        option
        for option in parts.query.split("&")
        if unquote(option.partition("=")[0]) not in own  # type: ignore[operator]
    )
    return f"postgresql://{escaped}{at}{servers}{parts.path}?{query}"


def _table(text: str) -> str:
    check_table(text)
    return text


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("it must be true or false")
    return text == "true"
