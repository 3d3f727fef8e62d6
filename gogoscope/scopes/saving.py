"""Saving which items of ``s.resume`` are done: as seldom as it may, and as often as it must.

After each item the runner saves what is done, if the last save is ``every`` seconds old. Otherwise
it leaves that to its companion, which waits until then: an item may be the last for hours. So what
a crash undoes is what was done in the last ``every`` seconds.

A save that fails for now is no reason to stop: the next one holds all that it held. If the store
fails for longer, the lease of the job ends, and its block with it. The save after the last item is
repeated until then. Where the loop was left early, the last save is made in a short time or not at
all, whatever cancels it, and what leaves the loop goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from gogoscope._core.cancellation import finish
from gogoscope._core.clock import monotonic
from gogoscope._core.groups import Companion
from gogoscope._core.jitter import jittered
from gogoscope._core.one_at_a_time import OneAtATime
from gogoscope.events import log_warning
from gogoscope.exceptions import LeaseLostError, PersistenceError
from gogoscope.jobs.progress import JobProgress, Meter

if TYPE_CHECKING:
    from gogoscope.jobs.positions import Positions

LAST_SAVE_SECONDS = 2.0
"""How long the last save may take, when the loop is left early."""
AGAIN_SECONDS = 0.5
"""How long to wait before a save is tried again, since the store failed."""


class AtJob(Protocol):
    """The block of a job, in which the items run."""

    state: Any
    finished: bool

    @property
    def key(self) -> str:
        """The job."""
        ...

    @property
    def progress(self) -> JobProgress:
        """How far it has come, as its saves told."""
        ...

    async def save(self, state: Any, *, done: int | None = None, total: int | None = None) -> None:
        """Save a state."""
        ...


class Saving:
    """Knows what is done, and saves it when it is due.

    ``meter`` knows how far the job has come, up to the last item.

    :param job: the block of the job
    :param done: what is done already
    :param total: how many items there are, if known
    :param every: seconds between two saves, at least
    """

    # _due_at: when the next save is due. _saved: what is known to be saved.
    # _unsaved: is set when the companion has something to save.
    # _stopped: cancelling it stops the companion.
    # _one_save: lets one save pass at a time, since the next one may have nothing to save.
    # _failure: why the companion could not save, and no later save can.

    def __init__(self, job: AtJob, done: Positions, total: int | None, every: float) -> None:
        self._job = job
        self._done = done
        self._every = every
        total = job.progress.total if total is None else total
        self.meter = Meter(done.count, total)
        self._due_at = monotonic() + every
        self._saved = done.state(), total
        self._unsaved = anyio.Event()
        self._stopped = anyio.CancelScope()
        self._one_save = OneAtATime()
        self._failure: Exception | None = None

    async def add(self, position: int, *, failed: bool) -> None:
        """Note that a position is done, and save that if a save is due.

        :raises PersistenceError: if a state cannot be saved, and waiting would not help
        :raises LeaseLostError: if somebody else has the job by now
        """
        self._done.add(position, failed=failed)
        self.meter.note(self._done.count, None)
        if self._failure is not None:
            raise self._failure
        if monotonic() >= self._due_at:
            await self._try_to_save()
        else:
            self._unsaved.set()

    def know_total(self, total: int) -> None:
        """Note how many items there are, now that all have come."""
        self.meter.note(None, total)

    async def kept_up(self, work: Callable[[], Awaitable[object]]) -> None:
        """Save what is due while some work is done, and everything at its end.

        :param work: notes what is done
        """
        companion = Companion(self._keep_up, f"gogoscope saves of {self._job.key}", _do_nothing)
        await companion.begin()
        try:
            try:
                await work()
            finally:
                self._stopped.cancel()
                await companion.end()
        except BaseException:
            await finish(self._save_if_possible, LAST_SAVE_SECONDS)
            raise
        while True:
            if await self._try_to_save():
                return
            await anyio.sleep(jittered(AGAIN_SECONDS))

    async def _keep_up(self) -> None:
        with self._stopped:
            while True:
                await self._unsaved.wait()
                early = self._due_at - monotonic()
                if early > 0:
                    await anyio.sleep(early)
                    continue  # the runner may have saved meanwhile
                self._unsaved = anyio.Event()
                try:
                    await self._try_to_save()
                except Exception as error:  # noqa: BLE001 - raised where the next item is done
                    self._failure = error
                    return

    async def _try_to_save(self) -> bool:
        """Save what is done; return ``False`` if the store fails, and may work again soon."""
        try:
            await self._save()
        except PersistenceError as error:
            if not error.retryable:
                raise
            log_warning("job %r goes on, though its store failed", self._job.key, error=error)
            self._due_at = max(self._due_at, monotonic() + AGAIN_SECONDS)
            self._unsaved.set()
            return False
        return True

    async def _save_if_possible(self) -> None:
        try:
            await self._save()
        except LeaseLostError:
            return  # its block says so
        except Exception as error:  # noqa: BLE001 - what leaves the loop is what counts
            log_warning("what was done last of job %r runs again", self._job.key, error=error)

    async def _save(self) -> None:
        async with self._one_save:
            state, total = wanted = self._done.state(), self.meter.total
            if wanted != self._saved:
                self._due_at = monotonic() + self._every
                await self._job.save(state, done=self._done.count, total=total)
                self._saved = wanted


def _do_nothing() -> None:
    """Do nothing: without the companion, the runner saves what it can."""
