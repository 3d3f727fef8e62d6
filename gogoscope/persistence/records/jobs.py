"""Jobs over any place for records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from gogoscope.persistence.job_records import Job, JobRecord, JobReply
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, describe_holder
from gogoscope.persistence.records.place import RecordCapability, json_kind
from gogoscope.persistence.rules import jobs as job_rules
from gogoscope.persistence.validation import check_ttl
from gogoscope.persistence.values import decoded


def _marks(record: JobRecord) -> Mapping[str, str | int]:
    """Return what says that a job is the caller's: who has it, and how often it was saved."""
    if record.lease.nonce is None:
        return {"status": "free", "seq": record.saves}
    return {"nonce": record.lease.nonce, "status": "running", "seq": record.saves}


JOBS = json_kind(
    "job",
    JobRecord,
    job_rules.purge_at_ms,
    marks=_marks,
    awaited=lambda job: job.lease.nonce is None,
)


class RecordJobs(RecordCapability):
    """A ``JobProvider``: every method is one transaction on one record."""

    async def claim_job(
        self,
        key: str,
        claim: LockClaim,
        version: int,
        *,
        restart: bool = False,
        seen: LockRecord | None = None,
    ) -> JobReply:
        """Take a job in one write, or learn from the refusal who has it."""
        return await self._claim_lease(
            JOBS,
            key,
            job_rules.claim,
            claim,
            version,
            restart=restart,
            seen=seen,
        )

    async def renew_job(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last until ``until_ms``, or ``lease_ms`` from now if later."""
        return await self._change_lease(
            JOBS, key, job_rules.renew, nonce, version, lease_ms, until_ms
        )

    async def save_job(
        self,
        key: str,
        nonce: str,
        version: int,
        lease_ms: int,
        until_ms: int,
        state: str,
        job_version: int,
        *,
        done: int | None = None,
        total: int | None = None,
        number: int = 0,
    ) -> LockReply:
        """Keep a state and renew the lease, in one write; refused as ``renew_job`` is."""
        return await self._change_lease(
            JOBS,
            key,
            job_rules.save,
            nonce,
            version,
            lease_ms,
            until_ms,
            state,
            job_version,
            done=done,
            total=total,
            number=number,
        )

    async def finish_job(self, key: str, nonce: str, keep: float | timedelta | None) -> bool:
        """Note that the job of ``nonce`` has finished, and free it; ``False`` if it was lost."""
        keep_ms = None if keep is None else math.ceil(check_ttl(keep, "keep") * 1000)
        return await self._change(JOBS, key, job_rules.finish, nonce, keep_ms)

    async def release_job(self, key: str, nonce: str) -> bool:
        """Free the job of ``nonce``, which is to go on from its state; ``False`` if lost."""
        return await self._change(JOBS, key, job_rules.release, nonce)

    async def read_job(self, key: str) -> JobRecord | None:
        """Return a job as the newest completed write left it; ``None`` if there is none."""
        return await self._records.read(JOBS, self._full_key(key))

    def job_text(self, state: Any) -> str:
        """Return the text by which a state is kept; makes no request."""
        return self._codec.dumps(state)

    def job_state(self, key: str, text: str | None) -> Any:
        """Return a state that was kept as a text; makes no request."""
        return decoded(self._codec, text, self._key_prefix + key)

    def job_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        return self._left_ms(lease)

    async def jobs(self, pattern: str | None = None) -> dict[str, Job]:
        """Return the jobs that are known, by their keys; one that is corrupt is left out.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        found = await self._listed(JOBS, pattern)
        return {key: self._describe_job(record) for key, record in found.items()}

    def _describe_job(self, record: JobRecord) -> Job:
        holder = describe_holder(record.lease, self.job_left_ms)
        return Job(
            state=self._job_is(record),
            saves=record.saves,
            version=record.version,
            since=None if holder is None else holder.since,
            finished_at=None if record.finished_ms is None else record.finished_ms / 1000,
            owner=None if holder is None else holder.owner,
            host=None if holder is None else holder.host,
            pid=None if holder is None else holder.pid,
            fencing_token=record.lease.fencing_token,
            done=record.done,
            total=record.total,
        )

    def _job_is(self, record: JobRecord) -> Literal["running", "crashed", "waiting", "finished"]:
        if record.lease.nonce is not None:
            crashed = self.job_left_ms(record.lease) < -self._skew_now_ms()
            return "crashed" if crashed else "running"
        return "waiting" if record.finished_ms is None else "finished"
