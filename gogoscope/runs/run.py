"""What the code inside the block of a run sees of it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, overload

from gogoscope.exceptions import RunError

if TYPE_CHECKING:
    from gogoscope.persistence.lock_handle import LockHandle
    from gogoscope.runs.once import Once
    from gogoscope.runs.transactions import RunInTransaction


class RunPart:
    """The part of a run's block that is no scope; the block is both."""

    # _once: what was asked for.
    # _handle: the lease of the run, None if the run was done before.
    # _result: what it came to then; else what it is to come to.
    # _token: the fencing token of that run, or of this one.
    # _transaction: how a transaction of the caller's completes it; None if it was done before.

    _once: Once
    _handle: LockHandle | None
    _result: Any
    _token: int
    _transaction: RunInTransaction | None

    @property
    def key(self) -> str:
        """The run."""
        return self._once.key

    @property
    def done(self) -> bool:
        """Whether the run was done before; then ``result`` is what it returned."""
        return self._handle is None

    @property
    def result(self) -> Any:
        """The value that the run returned, or that it has been completed with so far."""
        transaction = self._transaction
        if transaction is not None and transaction.kept is not None:
            return transaction.value()
        return self._result

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier run of this key."""
        return self._token

    @overload
    def complete(self, value: Any) -> None: ...

    @overload
    def complete(self, value: Any, *, connection: object) -> Coroutine[Any, Any, None]: ...

    def complete(
        self, value: Any, *, connection: object = None
    ) -> Coroutine[Any, Any, None] | None:
        """Say what the run is to return; it is kept when the block has ended without an error.

        A value that cannot be kept, since it is not JSON-shaped or too large, leaves the run done
        all the same: it is never repeated, and later callers get ``ResultNotKeptError``.

        ``await run.complete(value, connection=connection)`` keeps it in the transaction of a
        connection of yours to the store's database: it is done if and when that is committed, which
        has to happen inside the block. Of PostgreSQL alone, with psycopg's ``AsyncConnection``.
        From then on the run is not renewed, so a third of its lease must be left. Other callers of
        the key wait for the transaction, so commit soon.

        :param value: the result
        :param connection: completes it as a part of its transaction
        :raises RunError: if the run was done before, or a transaction of yours completes it
        :raises CapabilityNotSupportedError: if the store cannot do that
        :raises LeaseLostError: with a connection: if somebody else may run by now
        :raises TypeError: with a connection: if the value cannot be kept faithfully
        :raises ValueError: likewise
        :raises PersistenceError: with a connection: if the database fails
        """
        self._begun()
        transaction = self._transaction
        assert transaction is not None
        if connection is not None:
            self._result = value
            return transaction.complete(value, connection)
        if transaction.begun:
            raise RunError(self.key, "a transaction completes it; pass the result to that")
        self._result = value
        return None

    def transact_item(self, value: Any) -> dict[str, Any]:
        """Return an item for your own ``TransactItems`` that completes the run; makes no request.

        ::

            await dynamodb.transact_write_items(TransactItems=[write, run.transact_item(receipt)])

        Of DynamoDB alone. All of the transaction happens, or nothing. It is refused
        (``TransactionCanceledException``) once somebody else runs, and once it was carried out. At
        the end of the block the store is asked whether it was: if so, all is well, however often
        you have sent it. An exception that leaves the block leaves it. From now on the run is not
        renewed, so a third of its lease must be left. Send it inside the block.

        :param value: the result
        :raises RunError: if the run was done before
        :raises CapabilityNotSupportedError: if the store is another one
        :raises LeaseLostError: if somebody else may run by now, or before an answer could come
        :raises TypeError: if the value cannot be kept faithfully
        :raises ValueError: likewise
        :raises RecordTooLargeError: if it is too large
        """
        self._begun()
        assert self._transaction is not None
        item = self._transaction.item(value)
        self._result = value
        return item

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if somebody else may run by now
        :raises RunError: if the run was done before
        """
        self._begun().ensure()

    def _begun(self) -> LockHandle:
        if self._handle is None:
            raise RunError(self.key, "it was done before; return run.result instead")
        return self._handle
