"""The DynamoDB store: every capability on one table, and the life of its client."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Self

from gogoscope._core.clock import Clock, current_clock
from gogoscope._core.durations import seconds
from gogoscope.exceptions import InvalidURLError
from gogoscope.persistence.registry import PersistenceURL
from gogoscope.persistence.validation import check_key_prefix
from gogoscope.persistence.values import Codec, JSONCodec
from gogoscope_dynamodb.cache import Cache
from gogoscope_dynamodb.capability import Settings
from gogoscope_dynamodb.circuit_breakers.control import CircuitControl
from gogoscope_dynamodb.circuit_breakers.counting import CircuitCounting
from gogoscope_dynamodb.circuit_breakers.probes import CircuitProbes
from gogoscope_dynamodb.client import DynamoDBClient, check_client, open_client
from gogoscope_dynamodb.locks import Locks
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.table import create_table

REQUEST_TIMEOUT = 2.0

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_ARN = re.compile(r"arn:[a-z-]+:dynamodb:(?P<region>[a-z0-9-]+):\d*:table/[A-Za-z0-9_.-]{1,255}")


class DynamoDBAdapter(Locks, CircuitControl, CircuitCounting, CircuitProbes, Cache):
    """Locks, circuit breakers and a cache in one DynamoDB table.

    With a client of the caller's it is ready at once and never closes it. Without one it opens
    its own when it is entered with ``async with``, and closes that at the end of the block.

    Every write is atomic for its key, and conditions are judged on what was written last. Locks,
    circuits, ``clear`` and ``get_entry(latest=True)`` read what was written last; ``get``,
    ``get_entry``, ``get_many``, ``has``, ``keys`` and ``iterate_keys`` may miss what was written
    less than about a second ago, unless the store was made with ``consistent_reads``.

    :param client: a low-level async DynamoDB client, as ``aioboto3.Session().client("dynamodb")``
        gives when entered; ``None`` to open one
    :param table_name: the table's name or ARN; make it with ``create_table``
    :param key_prefix: stands before every key; ends with one of ``: / . | #``
    :param max_clock_skew: the largest difference between two clocks of the fleet, in seconds,
        which is twice the largest error of one; a lock whose holder died is taken over that much
        later. 0.05 if left out: machines that are kept in time by NTP or a cloud's time service
        are a few milliseconds off, and 50 ms more hardly matter to who waits for a dead holder.
        With worse clocks set it higher, or a live lease may be taken over early, which its holder
        and its fencing token tell. A waiter also takes over, whatever the clocks say, from a
        holder that it saw unchanged for a whole lease, so a high value costs nothing but that.
    :param clock: what it tells the time by
    :param codec: turns cached values into text and back; JSON if left out
    :param consistent_reads: whether the cache reads what was written last, at twice the price
    :param request_timeout: how long one try of a request may take, in seconds; there are three
        at most that are not answered
    :param region: the AWS region of its own client; that of the environment if left out
    :param endpoint_url: the endpoint of its own client; ``AWS_ENDPOINT_URL_DYNAMODB`` if left out
    :param create: whether entering makes the table if it does not exist; with its own client
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
    ) -> None:
        if client is not None:
            check_client(client)
        if client is not None and (region or endpoint_url or create):
            raise TypeError(
                "region, endpoint_url and create are only for a store of its own client"
            )
        arn = check_table_name(table_name)
        settings = Settings(
            key_prefix=key_prefix,
            max_clock_skew=max_clock_skew,
            clock=clock,
            codec=JSONCodec() if codec is None else codec,
            consistent_reads=consistent_reads,
        )
        timeout = seconds("request_timeout", request_timeout)
        super().__init__(Table(table_name, client, timeout), settings)
        self._owns_client = client is None
        self._region = region or (arn and arn["region"])
        self._endpoint_url = endpoint_url
        self._creates_table = create
        self._exit = AsyncExitStack()

    def __repr__(self) -> str:
        return (
            f"<DynamoDBAdapter table={self._table.name!r} key_prefix={self._settings.key_prefix!r}>"
        )

    async def __aenter__(self) -> Self:
        if self._owns_client:
            self._table.check_unused()
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(
                    open_client(self._region, self._endpoint_url)
                )
                if self._creates_table:
                    await create_table(client, self._table.name)
                self._table.opened(client)
                self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._owns_client:
            self._table.closed()
            await self._exit.aclose()


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
        max_clock_skew=lambda text: seconds("max_clock_skew", float(text), zero=True),
        request_timeout=lambda text: seconds("request_timeout", float(text)),
        consistent_reads=_boolean,
        create=_boolean,
    )
    try:
        return DynamoDBAdapter(None, url.location, **options)
    except ValueError as error:
        raise InvalidURLError(f"{url.url!r} names no table: {error}") from error


def check_table_name(name: str) -> re.Match[str] | None:
    """Check the name or ARN of a table; give the parts of an ARN.

    :raises TypeError: if it is not a ``str``
    :raises ValueError: if it is neither
    """
    if not isinstance(name, str):
        raise TypeError(f"table_name must be a str, got {name!r} of type {type(name).__name__}")
    arn = _ARN.fullmatch(name)
    if arn is None and not _NAME.fullmatch(name):
        raise ValueError(
            "table_name must be an ARN, or 1 to 255 letters, digits, '_', '-' and '.', "
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
