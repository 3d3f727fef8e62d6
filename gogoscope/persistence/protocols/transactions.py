"""What a store can do whose changes may be a part of its caller's own transactions.

There are two ways, and a store has the one of its server: it returns a part that the caller sends
with others, or it works on a connection of the caller's. Neither is a capability of its own: it is
how a run is completed, and how a job is saved. ``store.capability(Protocol)`` finds it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.protocols.jobs import JobProvider
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.run_records import RunRecord


@runtime_checkable
class TransactItems(Protocol):
    """Returns parts of transactions that callers send: one for ``TransactItems`` of DynamoDB."""

    def run_transact_item(
        self, key: str, run: RunRecord, outcome: str, keep: float | timedelta | None
    ) -> dict[str, Any]:
        """Return what keeps the result of a run; makes no request.

        Its condition holds once, and only while the run is that of the lease's nonce: neither a
        renewal before it nor one that lands after it changes anything.

        :param run: as it is known, running
        :param outcome: the value as a text
        :param keep: how long it is kept, in seconds; ``None`` for ever
        :raises RecordTooLargeError: if the text is too large
        """
        ...

    def job_transact_item(self, key: str, job: JobRecord) -> dict[str, Any]:
        """Return what saves the state of a job; makes no request.

        Its condition holds once, and only while the job is that of the lease's nonce and was saved
        less often than ``job.saves`` says. The lease stays as it is.

        :param job: as it is to be, with the lease as it is known
        :raises RecordTooLargeError: if the state is too large
        """
        ...


class JoinedStore(RunProvider, JobProvider, Protocol):
    """Runs and jobs on a connection of the caller's, as a part of its transaction."""

    def in_transaction(self) -> bool:
        """Return whether a transaction is open on the connection; makes no request."""
        ...


@runtime_checkable
class JoinsConnections(Protocol):
    """Works on connections of its callers."""

    def joined(self, connection: Any) -> JoinedStore:
        """Return a store whose changes happen if the transaction of a connection is committed.

        :raises TypeError: if it is no connection to a server of this kind
        :raises ValueError: if what is sent on it would be no part of a transaction
        """
        ...
