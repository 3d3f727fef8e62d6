"""Rate limits in Redis: one script reserves a place, by the server's own clock.

It changes the same record as :mod:`gogoscope.persistence.records.rate_limits`, by the same rule
(:func:`gogoscope.persistence.rules.rate_limits.reserve`): so all else that is done with a limit
needs no script. What differs is that a call which many want at once never has to try again.

A request whose answer was lost is sent again with its id. If nobody has reserved anything since, it
finds that it was carried out; otherwise it reserves a second place, and the first one is lost.
"""

from __future__ import annotations

import secrets

from gogoscope.persistence import KEEP_MS, Clock, Entry, corrupt_record
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateReply
from gogoscope.persistence.rules.rate_limits import KEEP_MS as KEEP_FULL_MS
from gogoscope.stores.redis.entries import entry_of
from gogoscope.stores.redis.requests import Request
from gogoscope.stores.redis.scripts import NONE, RESERVE
from gogoscope.stores.redis.server import Server

CORRUPT = b"corrupt"
CHARACTERS_OF_WRITERS = 402
"""Those of the ids of 31 writers, with a comma between two."""


class RedisRates:
    """Reserves places of rate limits.

    :param server: where they are
    :param clock: what it tells the time by; ``None`` for the server's time
    """

    def __init__(self, server: Server, clock: Clock | None) -> None:
        self._server = server
        self._clock = clock

    async def reserve(
        self, name: str, cost_us: int, burst_us: int, wait_us: int
    ) -> tuple[RateReply, Entry | None]:
        """Reserve a place in one request, or learn from the refusal when there will be one.

        :param name: the limit, with the prefix of the store
        :returns: the answer, and the entry as it is then
        """
        now = NONE if self._clock is None else int(self._clock.wall() * 1000) * 1000
        arguments = (
            *(now, secrets.token_hex(6), cost_us, burst_us, min(wait_us, LONGEST_WAIT_US)),
            *(LONGEST_WAIT_US, KEEP_FULL_MS, KEEP_MS, CHARACTERS_OF_WRITERS),
        )
        key = f"gogoscope:rate:{name}".encode()
        request = Request(self._server, RESERVE, lambda attempt: arguments, key, writes=True)
        reply = await request.run()
        if reply.status == CORRUPT:
            raise corrupt_record("rate", name, ValueError("this version did not write it"))
        *times, found = reply.parts
        tat_us, until_us, now_us = map(int, times)
        told = RateReply(reply.status == b"done", tat_us, until_us, now_us)
        return told, entry_of("rate", name, found)
