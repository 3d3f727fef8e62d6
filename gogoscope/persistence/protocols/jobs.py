"""What a store of jobs can do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from gogoscope.persistence.job_records import Job, JobRecord, JobReply
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply


@runtime_checkable
class JobProvider(Protocol):
    """Keeps how far jobs have come, so that another process can go on."""

    async def claim_job(
        self,
        key: str,
        claim: LockClaim,
        version: int,
        *,
        restart: bool = False,
        seen: LockRecord | None = None,
    ) -> JobReply:
        """Take a job in one write, or learn from the refusal who has it.

        It is granted as ``claim_lock`` grants a lock. It is refused if the state was saved by a
        newer version, unless the job is to begin anew.

        :param claim: one that was never sent; a claim whose nonce has the job already is granted
        :param version: that of the caller's program
        :param restart: whether the job begins anew, without its state
        :param seen: the lease of the job, watched unchanged for its whole length
        """
        ...

    async def renew_job(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last longer, as ``renew_lock`` does."""
        ...

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
        """Keep a state and renew the lease, in one write; refused as ``renew_job`` is.

        :param version: that of the lease
        :param state: what :meth:`job_text` returned
        :param job_version: that of the program whose form the state has
        :param done: how many parts of the work are done; ``None`` leaves what was told before
        :param total: how many there are; likewise
        :param number: how many saves there have been at least, this one included
        :raises RecordTooLargeError: if the state is too large
        """
        ...

    async def finish_job(self, key: str, nonce: str, keep: float | timedelta | None) -> bool:
        """Note that the job of ``nonce`` has finished, and free it; ``False`` if it was lost.

        :param keep: how long that is remembered, in seconds; ``None`` for ever
        """
        ...

    async def release_job(self, key: str, nonce: str) -> bool:
        """Free the job of ``nonce``, which is to go on from its state; ``False`` if lost.

        If nobody has it, the claim of ``nonce`` may still be on its way: it is refused when it
        lands.
        """
        ...

    async def read_job(self, key: str) -> JobRecord | None:
        """Return a job as the newest completed write left it; ``None`` if there is none."""
        ...

    def job_text(self, state: Any) -> str:
        """Return the text by which a state is kept; makes no request.

        :raises TypeError: if the state cannot be stored faithfully
        :raises ValueError: likewise
        """
        ...

    def job_state(self, key: str, text: str | None) -> Any:
        """Return a state that was kept as a text; makes no request.

        :param key: the job, for the error
        :raises CorruptRecordError: if the text cannot be understood
        """
        ...

    def job_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        ...

    async def jobs(self, pattern: str | None = None) -> dict[str, Job]:
        """Return the jobs that are known, by their keys; one that is corrupt is left out.

        :param pattern: a glob over whole keys, as for ``keys``
        """
        ...
