"""The DynamoDB store: every capability on one table, and how its client is opened and closed."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType, UnionType
from typing import Self

from gogoscope.exceptions import InvalidURLError, PersistenceError
from gogoscope.persistence import (
    BaseStore,
    Clock,
    Codec,
    CompareAndSwapRecords,
    Finding,
    PersistenceURL,
    check_clock,
    check_codec,
    check_key_prefix,
    check_max_clock_skew,
    current_clock,
    seconds,
)
from gogoscope_dynamodb import examination
from gogoscope_dynamodb.cache import Cache
from gogoscope_dynamodb.capability import Settings
from gogoscope_dynamodb.circuit_breakers.control import CircuitControl
from gogoscope_dynamodb.circuit_breakers.counting import CircuitCounting
from gogoscope_dynamodb.circuit_breakers.probes import CircuitProbes
from gogoscope_dynamodb.client import DynamoDBClient, check_client, open_client
from gogoscope_dynamodb.entries import Entries
from gogoscope_dynamodb.locks import Locks
from gogoscope_dynamodb.rate_limits import RateLimits
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schedules import Schedules
from gogoscope_dynamodb.table import create_table
from gogoscope_dynamodb.transactions import Transactions

REQUEST_TIMEOUT = 2.0

_NAME = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_ARN = re.compile(r"arn:[a-z-]+:dynamodb:(?P<region>[a-z0-9-]+):\d*:table/[A-Za-z0-9_.-]{3,255}")


class DynamoDBAdapter(
    Locks,
    CircuitControl,
    CircuitCounting,
    CircuitProbes,
    Cache,
    RateLimits,
    Transactions,
    Schedules,
    BaseStore,
):
    """Locks, circuit breakers and a cache in one DynamoDB table.

    With a client of the caller it is ready at once, and never closes it. Without one it opens
    its own client when it is entered with ``async with``, and closes it at the end of the block;
    then it may be opened again. It must be used by one process and event loop: that which opened
    it, or used the caller's client first.

    Every write is atomic for its key, and its condition is checked against the last write. Locks,
    circuits, ``clear`` and ``get_entry(latest=True)`` read what was written last; ``get``,
    ``get_entry``, ``get_many``, ``has``, ``keys`` and ``iterate_keys`` may miss what was written
    less than about a second ago, unless the store was made with ``consistent_reads``.

    :param client: a low-level async DynamoDB client, as ``aioboto3.Session().client("dynamodb")``
        returns when it is entered; ``None`` to open one
    :param table_name: the table's name or ARN; make it with ``create_table``
    :param key_prefix: stands before every key; ends with one of ``: / . | #``
    :param max_clock_skew: the largest difference between two clocks of the fleet, in seconds,
        which is twice the largest error of one clock. A lock whose holder has died is taken over
        that much later. The default is 0.05: clocks that NTP or the time service of a cloud sets
        are off by a few milliseconds. With worse clocks set it higher: otherwise a lease may be
        taken over while it still runs. Its holder then learns that the lease is lost, and its
        fencing token is outdated. Whatever the clocks say, a waiter takes a lock over when it has
        seen its holder unchanged for a whole lease, so a high value never costs more than that.
    :param clock: tells the time; its ``wall()`` is used
    :param codec: turns cached values into text and back; JSON if left out
    :param consistent_reads: whether the cache reads what was written last, at twice the price
    :param request_timeout: how long one try of a request may take, in seconds; after three
        timeouts a request is given up
    :param region: the AWS region of its own client; that of the environment if left out
    :param endpoint_url: the endpoint of its own client; ``AWS_ENDPOINT_URL_DYNAMODB`` if left out
    :param create: whether to make the table if it does not exist, when its own client is opened
    :param fast: whether its own client sends requests for one item by a short cut through the AWS
        SDK, which takes about two thirds of the processor's time; off until it has been used
        against AWS itself for long enough
    :raises TypeError: if an argument is of the wrong type, or if one for its own client comes with
        a client of the caller
    :raises ValueError: if an argument is malformed or out of range
    """

    def __init__(
        self,
        client: DynamoDBClient | None,
        table_name: str,
        *,
        key_prefix: str = "",
        max_clock_skew: float | timedelta = 0.05,
        clock: Clock = current_clock,
        codec: Codec | None = None,
        consistent_reads: bool = False,
        request_timeout: float | timedelta = REQUEST_TIMEOUT,
        region: str | None = None,
        endpoint_url: str | None = None,
        create: bool = False,
        fast: bool = False,
    ) -> None:
        if client is not None:
            check_client(client)
        if client is not None and (region or endpoint_url or create or fast):
            raise TypeError(
                "region, endpoint_url, create and fast are only for a store of its own client, "
                "got one of them besides a client"
            )
        arn = check_table_name(table_name)
        _check_type("create", create, bool)
        _check_type("fast", fast, bool)
        _check_type("consistent_reads", consistent_reads, bool)
        _check_type("region", region, str | None)
        _check_type("endpoint_url", endpoint_url, str | None)
        settings = Settings(
            key_prefix=check_key_prefix(key_prefix),
            max_clock_skew=check_max_clock_skew(max_clock_skew),
            clock=check_clock(clock),
            codec=check_codec(codec),
            consistent_reads=consistent_reads,
        )
        timeout = seconds("request_timeout", request_timeout)
        table = Table(table_name, client, timeout)
        super().__init__(table, settings)
        self._entries = Entries(table, settings.clock, self._fleet_clock)
        BaseStore.__init__(
            self,
            CompareAndSwapRecords(self._entries),
            key_prefix=settings.key_prefix,
            codec=settings.codec,
            max_clock_skew=settings.max_clock_skew,
        )
        self._life = self._table.life
        self._owns_client = client is None
        self._region = region or (arn and arn["region"])
        self._endpoint_url = endpoint_url
        self._creates_table = create
        self._fast = fast
        self._exit = AsyncExitStack()

    def __repr__(self) -> str:
        return (
            f"<DynamoDBAdapter table={self._table.name!r} key_prefix={self._settings.key_prefix!r}>"
        )

    async def __aenter__(self) -> Self:
        if not self._owns_client:
            return self
        self._life.begin()
        opening = self._life.opening
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(
                    open_client(self._region, self._endpoint_url, fast=self._fast)
                )
                if self._creates_table:
                    await create_table(client, self._table.name)
                self._check_not_closed_since(opening)
                self._table.opened(client)
                self._exit = stack.pop_all()
        except BaseException:
            self._life.end(opening)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its own client, as leaving the block does; the store may be opened again.

        A second call does nothing. A client of the caller is left open.

        :raises PersistenceError: if the store belongs to another event loop that still runs
        """
        if not (self._owns_client and self._life.may_close()):
            return
        opening, renewals = self._life.opening, self._table.renewals
        self._table.opened(None)
        exits, self._exit = self._exit, AsyncExitStack()
        try:
            if not self._life.orphaned:  # otherwise its connections have ended with its event loop
                exits.push_async_callback(renewals.end)
                await exits.aclose()
        finally:
            self._life.end(opening)

    def _check_not_closed_since(self, opening: object) -> None:
        if self._life.opening is not opening or not self._life.open:
            raise PersistenceError(f"{self!r} was closed while it was opened")

    async def examine(self) -> list[Finding]:
        """Look at the table, and compare the clock of this machine with the server's.

        :raises PersistenceError: if it does not answer
        """
        settings = self._settings
        return await examination.examine(self._table, settings.clock, settings.max_clock_skew)

    async def describe_scan(self) -> str:
        """Return what a method such as ``keys()`` or ``locks()`` reads, for a sentence.

        :raises PersistenceError: if the server does not answer
        """
        return await examination.describe_scan(self._table)

    async def sample_keys(self, limit: int) -> dict[str, list[str]]:
        """Return some of the keys that the table has, whatever its prefix, by their kind.

        :param limit: how many items to look at
        :raises PersistenceError: if the server does not answer
        """
        return await examination.sample_keys(self._table, limit)


def from_url(url: PersistenceURL) -> DynamoDBAdapter:
    """Return the store of a URL like ``dynamodb://my-table?region=us-east-1&key_prefix=myapp:``.

    Enter it with ``async with`` to open it. The table may be an ARN. The options are those of
    :class:`DynamoDBAdapter` with the same names.

    :raises InvalidURLError: if the table's name or an option is malformed or unknown
    """
    options = url.convert_options(
        region=_region,
        key_prefix=check_key_prefix,
        endpoint_url=_endpoint_url,
        max_clock_skew=lambda text: check_max_clock_skew(float(text)),
        request_timeout=lambda text: seconds("request_timeout", float(text)),
        consistent_reads=_boolean,
        create=_boolean,
        fast=_boolean,
    )
    try:
        return DynamoDBAdapter(None, url.location, **options)
    except ValueError as error:
        raise InvalidURLError(f"{str(url)!r} names no table: {error}") from error


def _check_type(name: str, value: object, kind: type | UnionType) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind}, got one of type {type(value).__name__}")


def check_table_name(name: str) -> re.Match[str] | None:
    """Check the name or ARN of a table, and return the parts of an ARN.

    :raises TypeError: if it is not a ``str``
    :raises ValueError: if it is neither
    """
    if not isinstance(name, str):
        raise TypeError(f"table_name must be a str, got {name!r} of type {type(name).__name__}")
    arn = _ARN.fullmatch(name)
    if arn is None and not _NAME.fullmatch(name):
        raise ValueError(
            "table_name must be an ARN, or 3 to 255 letters, digits, '_', '-' and '.', "
            f"got {name!r}"
        )
    return arn


def _region(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", text):
        raise ValueError("it must be the name of an AWS region, such as us-east-1")
    return text


def _endpoint_url(text: str) -> str:
    if not re.match(r"https?://[^/]", text):
        raise ValueError("it must begin with http:// or https://")
    return text


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("it must be true or false")
    return text == "true"
