"""Parts of transactions that callers send: what completes a run, and what saves a job.

They are made without a request, of the same rules by which the store changes its records itself.
"""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import Any

from gogoscope.persistence import Entry, RecordCapability, check_ttl
from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.records.jobs import JOBS
from gogoscope.persistence.records.place import Kind, Record
from gogoscope.persistence.records.runs import RUNS
from gogoscope.persistence.rules import runs as run_rules
from gogoscope.persistence.run_records import RunRecord
from gogoscope_dynamodb.entries import LEASE, Entries


class Transactions(RecordCapability):
    """Has ``TransactItems`` on entries in a table."""

    _entries: Entries

    def run_transact_item(
        self, key: str, run: RunRecord, outcome: str, keep: float | timedelta | None
    ) -> dict[str, Any]:
        """Return an item of ``TransactItems`` that keeps the result of a run; makes no request."""
        nonce = run.lease.nonce
        assert nonce is not None, "somebody runs"
        keep_ms = None if keep is None else math.ceil(check_ttl(keep, "keep") * 1000)
        now_ms = self._records.now_ms()
        done, _ = run_rules.complete(run, now_ms, nonce, "done", outcome, keep_ms)
        assert done is not None
        return self._entries.transact_item(
            RUNS.name,
            self._full_key(key),
            _entry(RUNS, done, now_ms, RUNS.dump(done)),
            nonce=nonce,
            seq=run.lease.fencing_token,
            over=False,
        )

    def job_transact_item(self, key: str, job: JobRecord) -> dict[str, Any]:
        """Return an item of ``TransactItems`` that saves the state of a job; makes no request."""
        nonce = job.lease.nonce
        assert nonce is not None, "somebody has the job"
        record = json.loads(JOBS.dump(job))
        del record[LEASE]
        rest = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
        return self._entries.transact_item(
            JOBS.name,
            self._full_key(key),
            _entry(JOBS, job, self._records.now_ms(), rest),
            nonce=nonce,
            seq=job.saves,
            over=True,
        )


def _entry(kind: Kind[Record], record: Record, now_ms: int, text: str) -> Entry:
    """Return an entry whose number and writer are those of the change, which has none yet."""
    marks = {} if kind.marks is None else kind.marks(record)
    return Entry(text, kind.purge_at_ms(record, now_ms), 0, ("-",), marks=marks)
