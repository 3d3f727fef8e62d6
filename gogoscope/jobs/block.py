"""The block of a job: whoever enters it goes on from the saved state, alone in the fleet.

Left without an error, the job has finished. After an error, a cancellation or the death of its
process, it is to go on: the next one who enters gets the state that was saved last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from gogoscope._core.background import Home
from gogoscope._core.callables import refuse_async
from gogoscope._core.context import current
from gogoscope._core.hints import explains
from gogoscope.events import JobEnded, JobStarted
from gogoscope.exceptions import JobVersionError, LeaseLostError, LockError
from gogoscope.jobs.claims import JobLeases, jobs_of, take
from gogoscope.jobs.job import JobPart
from gogoscope.jobs.options import JobOptions
from gogoscope.jobs.progress import Meter
from gogoscope.locks.lease_block import Held, LeaseBlock
from gogoscope.persistence.asking import ask
from gogoscope.persistence.insisting import until_answered
from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.lock_handle import LockHandle

J = TypeVar("J", bound=Held)
OpenJob = Callable[[JobOptions, LockHandle, JobLeases, Any, bool], J]
"""Returns what runs in the block: of its options, lease and state, and whether it had finished."""


@explains(
    attributes=dict.fromkeys(
        ("ensure", "fencing_token", "finished", "progress", "save", "state", "task"),
        "enter it first: async with s.job(key) as job",
    )
)
class JobBlock(LeaseBlock[J]):
    """Takes a job, renews its lease, and notes how it ended; made by ``s.job``.

    :param home: the scope that the block stands in
    :param open_job: returns what runs in the block
    :param options: what is asked for
    """

    def __init__(self, home: Home, open_job: OpenJob[J], options: JobOptions) -> None:
        super().__init__(home, self._open, options.key)
        self._open_job = open_job
        self._options = options

    async def _take(self) -> LockHandle:
        self._provider = jobs_of(self._home)
        self._refuse_itself()
        self._leases = JobLeases(self._home, self._provider, self._options)
        return await take(self._home, self._leases, self._options)

    def _open(self, handle: LockHandle) -> J:
        record = self._leases.found
        assert record is not None
        self._leases.renewal = self._renewal
        finished = record.finished_ms is not None
        self._leases.meter = Meter(record.done, record.total)
        job = self._open_job(self._options, handle, self._leases, self._state_of(record), finished)
        if self._home.observed:
            event = JobStarted(
                self._home.name,
                self.key,
                handle.fencing_token,
                record.saves > 0,
                id=handle._number,
            )
            self._home.emit(event)
        return job

    def _state_of(self, record: JobRecord) -> Any:
        """Return the state to go on from, in the form of this version.

        :raises JobVersionError: if it has the form of an older one, and nothing migrates it
        :raises TypeError: if what migrates it is async
        """
        options = self._options
        if not record.saves:
            return options.state
        state = self._provider.job_state(self.key, record.state)
        if record.version == options.version:
            return state
        if options.migrate is None:
            raise JobVersionError(self.key, record.version, options.version)
        migrated = options.migrate(state, record.version)
        refuse_async("migrate", options.migrate, migrated)
        return migrated

    async def _give_up(self, leaving: BaseException | None) -> None:
        handle, finished = self._handle, False
        try:
            if leaving is None and handle.lost is None and not self._cut:
                await self._finish(handle)
                finished = True
            else:
                await super()._give_up(leaving)
        finally:
            if self._home.observed:
                number = handle._number
                self._home.emit(JobEnded(self._home.name, self.key, finished, id=number))

    def _refuse_itself(self) -> None:
        frame = current.get()
        while frame is not None:
            holds = isinstance(frame, JobPart) and frame.key == self.key
            if holds and jobs_of(frame._home) is self._provider:
                raise LockError(
                    f"this code is part of job {self.key!r} already; waiting for it would never end"
                )
            frame = frame._outer

    async def _finish(self, handle: LockHandle) -> None:
        async def write() -> bool:
            keep = self._options.keep
            return await ask(self._provider.finish_job, self.key, handle._nonce, keep)

        try:
            written = await until_answered(
                write, f"whether it keeps that job {self.key!r} has finished"
            )
        finally:
            handle._abandon()
        if not written:
            raise LeaseLostError(self.key, "somebody else has taken it over")
