"""A store in Redis, shared by the whole fleet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from gogoscope.persistence import (
    Clock,
    Codec,
    CompareAndSwapRecords,
    Finding,
    PersistenceURL,
    RecordStore,
    check_clock,
    check_key_prefix,
    check_max_clock_skew,
    seconds,
)
from gogoscope.persistence.rate_records import RateReply
from gogoscope.persistence.records.rate_limits import RATES
from gogoscope.stores.redis import examination, scripts
from gogoscope.stores.redis.address import address_of
from gogoscope.stores.redis.entries import RedisEntries
from gogoscope.stores.redis.rates import RedisRates
from gogoscope.stores.redis.requests import Request
from gogoscope.stores.redis.server import Server

REQUEST_TIMEOUT = 2.0
MAX_CLOCK_SKEW = 0.05


class RedisStore(RecordStore):
    """Locks, circuit breakers and a cache in Redis 6 or later, or Valkey, for a whole fleet.

    It is open inside ``async with``, and must be used by the event loop and the process that
    entered it; then it may be opened again. Every operation is one script for each key, which the
    server carries out at once, and the time is the server's. A cluster works like one server. What
    a failover may lose is in the guide to the stores.

    :param url: where the server is: ``redis://user:password@host:6379/0``, or ``rediss`` for TLS
    :param key_prefix: stands before every key; ends with one of ``: / . | #``
    :param max_clock_skew: how much later than its lease a dead holder's lock is taken over, in
        seconds, besides what this process may be wrong about the server's time. It covers what
        others may be wrong by, half of their round trip, and the clocks of a cluster's servers.
    :param clock: what the store tells the time by instead of the server's, in tests
    :param codec: turns cached values into text and back; JSON if left out
    :param request_timeout: how long one try of a request may take, in seconds; after three
        timeouts a request is given up
    :param ca_file: the certificates of authorities that a server is checked by; those of the
        system if left out
    """

    def __init__(
        self,
        url: str | PersistenceURL,
        *,
        key_prefix: str = "",
        max_clock_skew: float | timedelta = MAX_CLOCK_SKEW,
        clock: Clock | None = None,
        codec: Codec | None = None,
        request_timeout: float | timedelta = REQUEST_TIMEOUT,
        ca_file: str | None = None,
    ) -> None:
        parsed = PersistenceURL.parse(url) if isinstance(url, str) else url
        timeout = seconds("request_timeout", request_timeout)
        self._server = Server(address_of(parsed), timeout, ca_file)
        self._life = self._server.life
        self._entries = RedisEntries(self._server, clock if clock is None else check_clock(clock))
        self._rates = RedisRates(self._server, clock)
        self._swapping = CompareAndSwapRecords(self._entries)
        super().__init__(
            self._swapping,
            key_prefix=key_prefix,
            codec=codec,
            max_clock_skew=max_clock_skew,
        )

    def __repr__(self) -> str:
        return f"<RedisStore {str(self._server.address)!r} key_prefix={self._key_prefix!r}>"

    async def __aenter__(self) -> Self:
        self._life.begin()
        opening = self._life.opening
        try:
            self._server.open()
            await self.ping()
            self._entries.opened()
            self._read_info(await examination.info(self._server))
        except BaseException:
            await self._close(opening)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def reserve_rate(self, name: str, cost_us: int, burst_us: int, wait_us: int) -> RateReply:
        """Reserve a place in one write, or learn from the refusal when there will be one."""
        key = self._full_key(name)
        reply, entry = await self._rates.reserve(key, cost_us, burst_us, wait_us)
        self._swapping.note(RATES, key, entry, written=reply.granted)
        return reply

    async def aclose(self) -> None:
        """Close the connections, as leaving the block does; the store may be opened again.

        A second call does nothing.

        :raises PersistenceError: if the store belongs to another event loop that still runs
        """
        if self._life.may_close():
            await self._close(self._life.opening)

    async def _close(self, opening: object) -> None:
        if self._life.opening is not opening:
            return
        # Each step is taken whatever becomes of the one before: asyncio's own cancellation knows no
        # shield.
        try:
            await self._entries.listener.close(orphaned=self._life.orphaned)
        finally:
            if self._life.opening is opening:
                try:
                    await self._server.close()
                finally:
                    self._life.end(opening)

    async def ping(self) -> None:
        """Ask the server for its time, to see that it answers.

        :raises PersistenceError: if it does not
        """
        await Request(self._server, scripts.TIME, lambda attempt: ()).run()

    async def examine(self) -> list[Finding]:
        """Look at the server: whether it keeps what it is given.

        :raises PersistenceError: if it does not answer
        """
        return await examination.examine(self._server)

    async def describe_scan(self) -> str:
        """Return what a method such as ``keys()`` or ``locks()`` reads, for a sentence.

        :raises PersistenceError: if the server does not answer
        """
        return await examination.describe_scan(self._server)

    def _read_info(self, told: Mapping[str, str]) -> None:
        self._entries.is_cluster = told.get("cluster_enabled") == "1"
        policy = told.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            _log.warning(
                "%s removes keys when its memory is full (maxmemory-policy %s): a lock that is "
                "held may be removed, so that a second holder gets it; set maxmemory-policy to "
                "noeviction",
                self._server.address,
                policy,
            )


_log = logging.getLogger("gogoscope")


def from_url(url: PersistenceURL) -> RedisStore:
    """Return the store of a URL like ``redis://user:password@host:6379/0?key_prefix=app:``.

    Enter it with ``async with`` to open it. The options are those of :class:`RedisStore` with the
    same names. What is not a letter or digit in the password may be percent-encoded.

    :raises InvalidURLError: if the server or an option is malformed or unknown
    """
    options = url.convert_options(
        key_prefix=check_key_prefix,
        max_clock_skew=lambda text: check_max_clock_skew(float(text)),
        request_timeout=lambda text: seconds("request_timeout", float(text)),
        ca_file=str,
    )
    return RedisStore(url, **options)
