"""A memory store whose changes may be parts of transactions, which a test carries out by hand."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.records.jobs import JOBS
from gogoscope.persistence.run_records import RunRecord
from gogoscope.stores.memory import MemoryStore


class TransactingStore(MemoryStore):
    """Has ``TransactItems``; an item is what it would write."""

    def run_transact_item(self, key: str, run: Any, outcome: str, keep: Any) -> dict[str, Any]:
        return {"key": key, "nonce": run.lease.nonce, "outcome": outcome, "keep": keep}

    def job_transact_item(self, key: str, job: JobRecord) -> dict[str, Any]:
        return {
            "key": key,
            "nonce": job.lease.nonce,
            "saves": job.saves,
            "state": job.state,
            "done": job.done,
        }

    async def complete(self, item: dict[str, Any]) -> bool:
        """Carry out the transaction of a run."""
        return await self.complete_run(
            item["key"], item["nonce"], "done", item["outcome"], item["keep"]
        )

    async def transact(self, items: list[dict[str, Any]]) -> bool:
        """Carry out a transaction of all its parts, or of none."""
        if not all([await self.may(item) for item in items]):
            return False
        for item in items:
            await (self.complete(item) if "outcome" in item else self._save(item))
        return True

    async def may(self, item: dict[str, Any]) -> bool:
        """Return whether the condition of a part holds."""
        record: RunRecord | JobRecord | None
        if "outcome" in item:
            record = await self.read_run(item["key"])
            holds = record is not None and record.state == "running"
        else:
            record = await self.read_job(item["key"])
            holds = record is not None and record.saves < item["saves"]
        return holds and record is not None and record.lease.nonce == item["nonce"]

    async def _save(self, item: dict[str, Any]) -> None:
        def save(record: JobRecord | None, now_ms: int) -> tuple[JobRecord | None, None]:
            assert record is not None
            new = evolve(record, state=item["state"], saves=item["saves"], done=item["done"])
            return new, None

        await self._change(JOBS, item["key"], save)
