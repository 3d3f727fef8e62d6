"""Saving the state of a job in a transaction of its caller's: what that writes, and how far it is.

The lease goes on meanwhile, and renewals change the same record. So they rest for a while, since
the store would refuse one of two that meet, or let one wait for the other. One that comes between
does no harm: the lease and the state are changed apart from each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gogoscope._core.clock import monotonic
from gogoscope.exceptions import LeaseLostError
from gogoscope.persistence.asking import ask
from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.joining import SHARE_OF_LEASE, joining
from gogoscope.persistence.lock_handle import LockHandle, milliseconds
from gogoscope.persistence.protocols.transactions import JoinsConnections, TransactItems

if TYPE_CHECKING:
    from gogoscope.jobs.claims import JobLeases
    from gogoscope.jobs.options import JobOptions


class SavingInTransaction:
    """Saves a state in a transaction of the caller's.

    :param handle: the lease of the job
    :param leases: what saves without one, and knows how far the job has come
    :param options: those of the job
    """

    def __init__(self, handle: LockHandle, leases: JobLeases, options: JobOptions) -> None:
        self._handle = handle
        self._leases = leases
        self._options = options

    def item(self, state: Any, done: int | None, total: int | None) -> tuple[dict[str, Any], Any]:
        """Return a part of a transaction, and the state as whoever comes next gets it.

        :raises LeaseLostError: if less than a third of the lease is left
        """
        handle, leases, options = self._handle, self._leases, self._options
        items = joining(TransactItems, leases.provider, "transact_item")
        text = leases.text_of(state, done, total)
        handle._check_time_left(SHARE_OF_LEASE)
        meter = leases.meter
        job = JobRecord(
            handle._record,
            options.version,
            saves=leases.number_in_transaction(),
            state=text,
            done=meter.done if done is None else done,
            total=meter.total if total is None else total,
        )
        item = items.job_transact_item(options.key, job)
        self._rest()
        meter.note(done, total)
        return item, leases.saved(handle, text)

    async def save(
        self, connection: object, state: Any, done: int | None, total: int | None
    ) -> Any:
        """Save a state in the transaction of a connection; return it as :meth:`item` does.

        :raises LeaseLostError: if less than a third of the lease is left, or somebody else has the
            job
        """
        handle, leases, options = self._handle, self._leases, self._options
        store = joining(JoinsConnections, leases.provider, "save(connection=...)")
        joined = store.joined(connection)
        text = leases.text_of(state, done, total)
        handle._check_time_left(SHARE_OF_LEASE)
        async with handle._guard:  # a renewal that is on its way comes first
            record = handle._record
            nonce, lease_ms = record.nonce, milliseconds(handle._lease)
            assert nonce is not None, "somebody has the job"
            while True:
                # What the lease lasts longer by that, nobody counts on: it may be rolled back.
                reply = await ask(
                    joined.save_job,
                    options.key,
                    nonce,
                    record.version,
                    lease_ms,
                    0,
                    text,
                    options.version,
                    done=done,
                    total=total,
                )
                if reply.granted:
                    break
                if reply.record is None or reply.record.nonce != nonce:
                    raise LeaseLostError(options.key, "somebody else has taken it over")
                record = reply.record
            self._rest()
        leases.meter.note(done, total)
        return leases.saved(handle, text)

    def _rest(self) -> None:
        """Renew nothing while the transaction is on its way, unless half of the lease is over.

        So it is renewed in time also if one transaction follows the other.
        """
        handle, renewal = self._handle, self._leases.renewal
        assert renewal is not None, "it was entered"
        half_left = handle._deadline - handle._lease / 2 - monotonic()
        renewal.rest(min(handle._lease * SHARE_OF_LEASE, half_left))
