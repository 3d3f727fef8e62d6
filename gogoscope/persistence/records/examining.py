"""What every store over records tells of itself to people who look for what is wrong."""

from __future__ import annotations

from typing import Any

from gogoscope.persistence.protocols.examination import Finding
from gogoscope.persistence.records.cache import CACHE
from gogoscope.persistence.records.circuit_breakers import CIRCUITS
from gogoscope.persistence.records.jobs import JOBS
from gogoscope.persistence.records.locks import LOCKS
from gogoscope.persistence.records.permits import PERMIT_KINDS
from gogoscope.persistence.records.place import Kind, RecordCapability
from gogoscope.persistence.records.rate_limits import RATES
from gogoscope.persistence.records.runs import RUNS
from gogoscope.persistence.records.schedules import SCHEDULES

KINDS: tuple[Kind[Any], ...] = (
    *(LOCKS, CIRCUITS, CACHE, RUNS, JOBS, RATES, SCHEDULES),
    *PERMIT_KINDS.values(),
)
"""The kinds of records of our capabilities."""

MOST_PAGES = 20
"""How many pages are read of each kind: where there is no index, they may be empty."""


class RecordExamination(RecordCapability):
    """An ``Examinable``; a store that knows more of its server overrides the methods."""

    async def examine(self) -> list[Finding]:
        """Look at the server and how it is set up: there is nothing to look at."""
        return []

    async def describe_scan(self) -> str:
        """Return what a method such as ``keys()`` or ``locks()`` reads, for a sentence."""
        below = f" below its prefix {self._key_prefix!r}" if self._key_prefix else ""
        return f"whatever it keeps of that kind{below}"

    async def sample_keys(self, limit: int) -> dict[str, list[str]]:
        """Return some of the keys that the store has, whatever its prefix, by their kind.

        :param limit: how many to look at, about, of each kind
        """
        sampled: dict[str, list[str]] = {}
        for kind in KINDS:
            found: list[str] = []
            after: str | None = None
            for _ in range(MOST_PAGES):
                page, after = await self._records.keys_after(kind, "", after)
                found += page
                if after is None or len(found) >= limit:
                    break
            sampled[kind.name] = found[:limit]
        return sampled
