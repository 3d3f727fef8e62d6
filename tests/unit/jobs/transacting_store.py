"""A memory store whose changes may be parts of transactions, which a test carries out by hand."""

from __future__ import annotations

from typing import Any

from gogoscope.persistence.job_records import JobRecord
from gogoscope.stores.memory import MemoryStore


class TransactingStore(MemoryStore):
    """Has ``TransactItems``; an item is what it would write."""

    def run_transact_item(self, key: str, run: Any, outcome: str, keep: Any) -> dict[str, Any]:
        return {"key": key, "nonce": run.lease.nonce, "outcome": outcome, "keep": keep}

    def job_transact_item(self, key: str, job: JobRecord) -> dict[str, Any]:
        return {"key": key, "saves": job.saves, "state": job.state, "done": job.done}

    async def complete(self, item: dict[str, Any]) -> bool:
        """Carry out the transaction of a run."""
        return await self.complete_run(
            item["key"], item["nonce"], "done", item["outcome"], item["keep"]
        )
