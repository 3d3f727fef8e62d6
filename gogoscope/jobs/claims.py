"""Taking a job, and saving its state with the renewals of its lease."""

from __future__ import annotations

from typing import Any

import anyio
from attrs import frozen

from gogoscope._core.background import Home
from gogoscope.events import JobSaved
from gogoscope.exceptions import JobVersionError, LockTimeoutError
from gogoscope.jobs.options import JobOptions
from gogoscope.jobs.progress import Meter
from gogoscope.locks.line import Line, Lines, Want
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.protocols.jobs import JobProvider
from gogoscope.persistence.stored import check_integer


@frozen(eq=False)
class _ToSave:
    """The text of a state, and how many parts of the work are done, of how many."""

    text: str
    done: int | None
    total: int | None


class JobLeases:
    """The jobs of a store, as the leases that a ``LockHandle`` knows.

    A save is a renewal that writes a state as well. So saves and renewals come one after the other,
    each knows the version that the last one left, and no late one changes anything.

    ``provider`` keeps the jobs. ``found`` is the job as the last answer to a claim showed it.
    ``meter`` knows how far the job has come. ``_to_save`` is what the next renewal writes;
    ``_saving`` lets one save pass at a time, so that what is saved last is what was asked for last.
    """

    __slots__ = ("_home", "_options", "_saving", "_to_save", "found", "meter", "provider")

    leased = "job"

    def __init__(self, home: Home, provider: JobProvider, options: JobOptions) -> None:
        self._home = home
        self.provider = provider
        self._options = options
        self.found: JobRecord | None = None
        self.meter = Meter(None, None)
        self._to_save: _ToSave | None = None
        self._saving = anyio.Lock(fast_acquire=True)

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
        provider, wanted = self.provider, self._to_save
        if wanted is None:
            return await provider.renew_job(key, nonce, version, lease_ms, until_ms)
        reply = await provider.save_job(
            key,
            nonce,
            version,
            lease_ms,
            until_ms,
            wanted.text,
            self._options.version,
            done=wanted.done,
            total=wanted.total,
        )
        if reply.granted and self._to_save is wanted:
            self._to_save = None
        return reply

    async def save(
        self, handle: LockHandle, state: Any, done: int | None, total: int | None
    ) -> Any:
        """Save a state, which renews the lease; return it as whoever comes next gets it.

        :param handle: that of the lease
        :raises LeaseLostError: if somebody else has the job by now
        """
        key, provider, meter = self._options.key, self.provider, self.meter
        for name, value in (("done", done), ("total", total)):
            if value is not None:
                check_integer(name, value)
        wanted = _ToSave(provider.job_text(state), done, total)
        async with self._saving:
            self._to_save = wanted
            try:
                kept = await handle.extend()
            finally:
                self._to_save = None
            if not kept:
                raise handle._lease_lost()
            meter.note(done, total)
        home = self._home
        if home.observed:
            told = JobSaved(home.name, key, meter.done, meter.total, meter.rate, id=handle._number)
            home.emit(told)
        return provider.job_state(key, wanted.text)

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
