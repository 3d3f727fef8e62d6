"""Rate limits over any place for records."""

from __future__ import annotations

from gogoscope.persistence.rate_records import RateLimitState, RateRecord, RateReply
from gogoscope.persistence.records.place import RecordCapability, json_kind
from gogoscope.persistence.rules import rate_limits as rate_rules

RATES = json_kind("rate", RateRecord, rate_rules.purge_at_ms)


class RecordRateLimits(RecordCapability):
    """A ``RateLimitProvider``: every method is one transaction on one record."""

    async def reserve_rate(self, name: str, cost_us: int, burst_us: int, wait_us: int) -> RateReply:
        """Reserve a place in one write, or learn from the refusal when there will be one."""
        return await self._change_lease(RATES, name, rate_rules.reserve, cost_us, burst_us, wait_us)

    async def return_rate(self, name: str, tat_us: int, cost_us: int) -> bool:
        """Return a place, or a part of it, if it is the last one, and the limit is not paused."""
        return await self._change_lease(RATES, name, rate_rules.return_place, tat_us, cost_us)

    async def pause_rate(self, name: str, pause_us: int, burst_us: int) -> RateReply:
        """Admit nobody from now on for a while; the bucket is empty then."""
        return await self._change_lease(RATES, name, rate_rules.pause, pause_us, burst_us)

    async def read_rate(self, name: str) -> RateReply | None:
        """Return a limit as the newest completed write left it; ``None`` if there is none."""
        record = await self._records.read(RATES, self._full_key(name))
        return None if record is None else self._show_rate(record)

    async def rate_limits(self, pattern: str | None = None) -> dict[str, RateLimitState]:
        """Return the limits that are known, by their names; one that is corrupt is left out.

        :param pattern: a case-sensitive glob over whole names: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        found = await self._listed(RATES, pattern)
        return {name: self._show_rate(record).state() for name, record in found.items()}

    def _show_rate(self, record: RateRecord) -> RateReply:
        return rate_rules.show(record, self._records.now_ms(), at=self._records.steady())
