"""Taking a job, and saving its state with the renewals of its lease."""

from __future__ import annotations

from gogoscope._core.background import Home
from gogoscope.events import JobSaved
from gogoscope.exceptions import JobVersionError, LockTimeoutError
from gogoscope.jobs.options import JobOptions
from gogoscope.locks.line import Line, Lines, Want
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.protocols.jobs import JobProvider


class JobLeases:
    """The jobs of a store, as the leases that a ``LockHandle`` knows.

    A save is a renewal that writes a state as well. So saves and renewals come one after the other,
    each knows the version that the last one left, and no late one changes anything.

    ``provider`` keeps the jobs. ``found`` is the job as the last answer to a claim showed it.
    ``to_save`` is the text of the state that the next renewal writes.
    """

    __slots__ = ("_home", "_options", "found", "provider", "to_save")

    leased = "job"

    def __init__(self, home: Home, provider: JobProvider, options: JobOptions) -> None:
        self._home = home
        self.provider = provider
        self._options = options
        self.found: JobRecord | None = None
        self.to_save: tuple[str] | None = None

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Take the job in one write, or learn who has it."""
        options = self._options
        reply = await self.provider.claim_job(
            key, claim, options.version, restart=options.restart, seen=seen
        )
        self.found = reply.record
        return LockReply(reply.granted, reply.record.lease, reply.dead_in_ms)

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last longer, and save what is to be saved."""
        provider, wanted = self.provider, self.to_save
        if wanted is None:
            return await provider.renew_job(key, nonce, version, lease_ms, until_ms)
        reply = await provider.save_job(
            key, nonce, version, lease_ms, until_ms, wanted[0], self._options.version
        )
        if reply.granted and self.to_save is wanted:
            self.to_save = None
        return reply

    def tell_saved(self, handle: LockHandle, done: int | None, total: int | None) -> None:
        """Tell the scope's observers that a state was saved."""
        home = self._home
        if home.observed:
            home.emit(JobSaved(home.name, self._options.key, done, total, id=handle._number))

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Free the job of ``nonce``."""
        return await self.provider.release_job(key, nonce)

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return the lease of the job."""
        record = await self.provider.read_job(key)
        return None if record is None else record.lease

    def lease_left_ms(self, record: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds."""
        return self.provider.job_left_ms(record)


lines = Lines("job", Line)


async def take(home: Home, leases: JobLeases, options: JobOptions) -> LockHandle:
    """Wait for a job, and return its handle.

    :raises JobVersionError: if a newer version of the program saved its state
    :raises LockTimeoutError: if it was not free in time
    """

    def look() -> None:
        record = leases.found
        if record is not None and record.version > options.version and not options.restart:
            raise JobVersionError(options.key, record.version, options.version)

    line = lines.of(jobs_of(home), options.key)
    want = Want[LockHandle](leases, options.lease, options.patience, look)
    handle = await line.take(home, want)
    if handle is None:
        held = "" if leases.found is None else f": held by {leases.found.lease.owner!r}"
        raise LockTimeoutError(
            f"job {options.key!r} was not free within {options.patience:g} s{held}"
        )
    return handle


def jobs_of(home: Home) -> JobProvider:
    """Return the jobs of a scope's store.

    :raises CapabilityNotSupportedError: if it has none
    """
    provider: JobProvider = provider_of("jobs", home.store())
    return provider
