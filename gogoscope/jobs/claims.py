"""Taking a job, and saving its state with the renewals of its lease."""

from __future__ import annotations

from functools import partial
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
from gogoscope.persistence.lease import Renewal
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
    ``meter`` knows how far the job has come, ``renewal`` renews the lease inside the block.
    ``_to_save`` is what the next renewal writes; ``_saving`` lets one save pass at a time, so that
    what is saved last is what was asked for last. ``_tries`` counts the saves of this lease that
    may have landed, those in transactions included; ``_transacts`` says whether one was made that
    the caller sends, and that may land late.
    """

    __slots__ = (
        "_home",
        "_options",
        "_saving",
        "_to_save",
        "_transacts",
        "_tries",
        "found",
        "meter",
        "provider",
        "renewal",
    )

    leased = "job"

    def __init__(self, home: Home, provider: JobProvider, options: JobOptions) -> None:
        self._home = home
        self.provider = provider
        self._options = options
        self.found: JobRecord | None = None
        self.meter = Meter(None, None)
        self.renewal: Renewal | None = None
        self._to_save: _ToSave | None = None
        self._saving = anyio.Lock(fast_acquire=True)
        self._tries = 0
        self._transacts = False

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
        number = self._next_number()
        save = partial(provider.save_job, number=number) if self._transacts else provider.save_job
        reply = await save(
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
        wanted = _ToSave(self.text_of(state, done, total), done, total)
        async with self._saving:
            self._to_save = wanted
            try:
                kept = await handle.extend()
            finally:
                self._to_save = None
            if not kept:
                raise handle._lease_lost()
            self.meter.note(done, total)
        return self.saved(handle, wanted.text)

    def text_of(self, state: Any, done: int | None, total: int | None) -> str:
        """Return the text of a state, once what is told of the work is known to be numbers."""
        for name, value in (("done", done), ("total", total)):
            if value is not None:
                check_integer(name, value)
        return self.provider.job_text(state)

    def saved(self, handle: LockHandle, text: str) -> Any:
        """Tell that a state was saved; return it as whoever comes next gets it."""
        home, key, meter = self._home, self._options.key, self.meter
        if home.observed:
            told = JobSaved(home.name, key, meter.done, meter.total, meter.rate, id=handle._number)
            home.emit(told)
        return self.provider.job_state(key, text)

    def number_in_transaction(self) -> int:
        """Return the number of a save that the caller sends, above those of all before.

        From now on each save has one. What lands late, and has a lower one, is refused.
        """
        self._transacts = True
        return self._next_number()

    def _next_number(self) -> int:
        self._tries += 1
        return self._tries + (0 if self.found is None else self.found.saves)

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
        if record is None or options.restart:
            return
        if record.is_newer_than(options.version):
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
