"""Rate limits in PostgreSQL: one statement reserves a place, by the server's own clock.

It changes the same record as :mod:`gogoscope.persistence.records.rate_limits`, by the same rule
(:func:`gogoscope.persistence.rules.rate_limits.reserve`): so all else that is done with a limit
needs no statement of its own. What differs is that a call which many want at once never has to try
again: each takes the row's lock, and decides by the newest version of the row.

A statement whose answer was lost is sent again with its id. If nobody has reserved anything since,
it finds that it was carried out; otherwise it reserves a second place, and the first one is lost.
"""
# ruff: noqa: S608 - the name of the table was checked and quoted

from __future__ import annotations

import secrets

from gogoscope.persistence import Clock, Entry
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateReply
from gogoscope.persistence.records.rate_limits import RATES
from gogoscope.persistence.rules.rate_limits import KEEP_MS
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.stores.postgres.entries import entry_of
from gogoscope.stores.postgres.schema import FORMAT, NOW

_TIME = "coalesce($4::bigint, (extract(epoch FROM statement_timestamp()) * 1000000)::bigint)"
_COST, _BURST, _WAIT, _LONGEST = "$5::bigint", "$6::bigint", "$7::bigint", "$8::bigint"
_CHARACTERS_OF_WRITERS = 402
"""Those of the ids of 31 writers, with a space between two."""
_NEW = f"""
SELECT
  CASE WHEN granted THEN '{{"tat_us":' || tat
    || CASE WHEN till > 0 THEN ',"until_us":' || till ELSE '' END || '}}' ELSE r.content END,
  CASE WHEN granted THEN greatest(tat, till) / 1000 + {KEEP_MS} ELSE r.purge_at END,
  CASE WHEN granted THEN greatest(now, r.number + 1) ELSE r.number END,
  CASE WHEN granted THEN $3 ELSE r.writer END,
  CASE WHEN granted THEN right(r.writers, {_CHARACTERS_OF_WRITERS}) || ' ' || $3 ELSE r.writers END
FROM (
  SELECT excluded.number AS now, (nullif(r.content, '')::json ->> 'tat_us')::bigint AS kept,
    coalesce((nullif(r.content, '')::json ->> 'until_us')::bigint, 0) AS pause
) AS found
CROSS JOIN LATERAL (
  SELECT CASE WHEN pause <= now OR pause - now > {_LONGEST} THEN 0 ELSE pause END AS till
) AS paused
CROSS JOIN LATERAL (
  SELECT greatest(now, CASE WHEN kept - now > {_BURST} + {_LONGEST}
    THEN greatest(now, till) + {_BURST} ELSE kept END,
    CASE WHEN till > 0 THEN till + {_BURST} END) + {_COST} AS tat
) AS full_at
CROSS JOIN LATERAL (
  SELECT r.writer <> $3 AND r.format = {FORMAT} AND (kept IS NOT NULL OR r.content = '')
    AND tat - now <= {_BURST} + {_WAIT} AS granted
) AS decided
"""
_RESERVE = f"""
INSERT INTO %TABLE AS r (kind, key, format, content, purge_at, number, writer, writers)
SELECT $1, $2, {FORMAT}, '{{"tat_us":' || time + {_COST} || '}}',
  (time + {_COST}) / 1000 + {KEEP_MS}, time, $3, '- ' || $3
FROM (SELECT {_TIME} AS time) AS clock
ON CONFLICT (kind, key) DO UPDATE
SET (content, purge_at, number, writer, writers) = ({_NEW})
RETURNING {NOW}, row_to_json(r), {_TIME}::text
"""


class PostgresRates:
    """Reserves places of rate limits.

    :param client: the server
    :param table: the quoted name of the table
    :param clock: what it tells the time by; ``None`` for the server's time
    """

    def __init__(self, client: PostgresClient, table: str, clock: Clock | None) -> None:
        self._client = client
        self._clock = clock
        self._reserve = _RESERVE.replace("%TABLE", table).encode()

    async def reserve(
        self, name: str, cost_us: int, burst_us: int, wait_us: int
    ) -> tuple[RateReply, Entry] | None:
        """Reserve a place in one request, or learn from the refusal when there will be one.

        :param name: the limit, with the prefix of the store
        :returns: the answer, and the entry as it is then; ``None`` if it can never be granted
        """
        wait_us = min(wait_us, LONGEST_WAIT_US)
        if cost_us > burst_us + wait_us:
            return None
        now_us = None if self._clock is None else int(self._clock.wall() * 1000) * 1000
        writer = secrets.token_hex(6)
        reply = await self._client.run(
            self._reserve,
            *(RATES.name, name, writer),
            *(now_us, cost_us, burst_us, wait_us, LONGEST_WAIT_US),
            writes=True,
        )
        ((row, time),) = reply.rows
        entry = entry_of(RATES.name, name, row)
        record = RATES.restore(name, entry.text, entry.purge_at_ms)
        now = int(time or b"0")
        until_us = record.until_us if 0 < record.until_us - now <= LONGEST_WAIT_US else 0
        tat_us = record.tat_us
        if tat_us - now > burst_us + LONGEST_WAIT_US:  # the rule does not believe it
            tat_us = max(now, until_us) + burst_us
        if until_us:
            tat_us = max(tat_us, until_us + burst_us)
        return RateReply(entry.writer == writer, tat_us, until_us, now), entry
