"""What the code inside the block of a job sees of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gogoscope.jobs.transactions import SavingInTransaction

if TYPE_CHECKING:
    from gogoscope.jobs.claims import JobLeases
    from gogoscope.jobs.options import JobOptions
    from gogoscope.jobs.progress import JobProgress
    from gogoscope.persistence.lock_handle import LockHandle


class JobPart:
    """The part of a job's block that is no scope; the block is both."""

    # _options_of_job: what was asked for.
    # _handle: the lease of the job.
    # _leases: saves, and knows how far the job has come.
    # _state: the newest saved state; the one to begin with before the first save.
    # _finished: whether an earlier holder left its block without an error.

    _options_of_job: JobOptions
    _handle: LockHandle
    _leases: JobLeases
    _state: Any
    _finished: bool

    @property
    def key(self) -> str:
        """The job."""
        return self._options_of_job.key

    @property
    def state(self) -> Any:
        """The state that was saved last, by whichever process."""
        return self._state

    @property
    def finished(self) -> bool:
        """Whether an earlier holder left its block without an error."""
        return self._finished

    @property
    def progress(self) -> JobProgress:
        """How far the job has come, as the saves told, those of earlier holders included."""
        return self._leases.meter.progress()

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier holder of this job."""
        return self._handle.fencing_token

    async def save(
        self,
        state: Any,
        *,
        done: int | None = None,
        total: int | None = None,
        connection: object = None,
    ) -> None:
        """Save a state, from which whoever comes next goes on; it renews the lease as well.

        One write. Cancelled, or if the store does not answer, the state may be saved or not.

        With a connection of yours to the store's database, it is saved if and when its transaction
        is committed: of PostgreSQL alone, with psycopg's ``AsyncConnection``. ``job.state`` is the
        new state at once, so let what rolls the transaction back leave the block of the job.

        :param state: JSON-shaped, unless the store has a codec of its own
        :param done: how many parts of the work are done, for :attr:`progress` and for people; if
            left out, what was told before
        :param total: how many there are; likewise
        :param connection: saves it as a part of its transaction
        :raises CapabilityNotSupportedError: if the store cannot do that
        :raises LeaseLostError: if somebody else has the job by now; nothing is saved then
        :raises TypeError: if the state cannot be stored faithfully
        :raises ValueError: likewise
        :raises PersistenceError: if the store fails
        """
        handle, leases = self._handle, self._leases
        if connection is None:
            self._state = await leases.save(handle, state, done, total)
        else:
            joined = SavingInTransaction(handle, leases, self._options_of_job)
            self._state = await joined.save(connection, state, done, total)

    def transact_item(
        self, state: Any, *, done: int | None = None, total: int | None = None
    ) -> dict[str, Any]:
        """Return an item for your own ``TransactItems`` that saves a state; makes no request.

        ::

            write = {"Put": {...}}
            await dynamodb.transact_write_items(TransactItems=[write, job.transact_item(state)])

        Of DynamoDB alone. All of the transaction happens, or nothing. It is refused
        (``TransactionCanceledException``) once somebody else has the job, once it was carried out,
        and once a later state was saved. Make a new one to try again; sending the same one again
        with the same ``ClientRequestToken`` is free. ``job.state`` is the new state at once, so let
        what cancels the transaction leave the block of the job. A third of the lease must be left;
        for that time it is not renewed.

        :param state: JSON-shaped, unless the store has a codec of its own
        :param done: as for :meth:`save`
        :param total: likewise
        :raises CapabilityNotSupportedError: if the store is another one
        :raises LeaseLostError: if somebody else may have the job by now, or before an answer could
            come
        :raises TypeError: if the state cannot be stored faithfully
        :raises ValueError: likewise
        :raises RecordTooLargeError: if it is too large
        """
        joined = SavingInTransaction(self._handle, self._leases, self._options_of_job)
        item, self._state = joined.item(state, done, total)
        return item

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if somebody else may have the job by now
        """
        self._handle.ensure()
