"""A run that is completed by a transaction of its caller's: what it writes and "done" are one.

Whether that transaction was committed, only the store knows. So the run is renewed no more once the
transaction is made, and when its block ends, or its lease does, the store is asked: a run that is
done by this very lease was completed, whoever sent what, how often, and whatever was answered.

If it is not done, the block gives it up before anything else is told. That makes the question
final: a transaction that lands later finds another run than its own, and is refused whole.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from gogoscope._core.clock import monotonic
from gogoscope.exceptions import GogoscopeError, LeaseLostError, RunError
from gogoscope.persistence.asking import ask
from gogoscope.persistence.joining import SHARE_OF_LEASE, joining
from gogoscope.persistence.lease import Renewal
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.protocols.transactions import (
    JoinedStore,
    JoinsConnections,
    TransactItems,
)
from gogoscope.persistence.run_records import RunRecord
from gogoscope.runs.once import Once

_TAKEN_OVER = "another run has taken its place"


class RunInTransaction:
    """How a run is completed by a transaction of its caller's.

    ``begun`` says whether one was made: from then on only a transaction completes the run. ``kept``
    is the run as the store had it after that, if it is done. ``is_over`` says that it is done, or
    that it never will be by this lease. ``made_at`` is when the first one was made, on the clock of
    ``monotonic()``.

    :param provider: keeps the run
    :param once: what was asked for
    :param handle: the lease of the run
    :param renewal: what renews it
    """

    # _joined: the store on the caller's connection, if there is one.

    def __init__(
        self, provider: RunProvider, once: Once, handle: LockHandle, renewal: Renewal
    ) -> None:
        self._provider = provider
        self._once = once
        self._handle = handle
        self._renewal = renewal
        self._joined: JoinedStore | None = None
        self.begun = False
        self.kept: RunRecord | None = None
        self.is_over = False
        self.made_at = 0.0

    def item(self, value: Any) -> dict[str, Any]:
        """Return what a transaction keeps the result by; makes no request."""
        provider, once = self._provider, self._once
        items = joining(TransactItems, provider, "transact_item")
        self._handle._check_time_left(SHARE_OF_LEASE)
        run = RunRecord(self._handle._record, "running", once.payload, once.after_crash)
        item = items.run_transact_item(once.key, run, provider.run_outcome(value), once.keep)
        self._begin()
        return item

    def complete(self, value: Any, connection: object) -> Coroutine[Any, Any, None]:
        """Return what keeps the result in the transaction of a connection.

        Even if nobody awaits that, the run is done by that transaction or not at all.
        """
        store = joining(JoinsConnections, self._provider, "complete(connection=...)")
        joined = store.joined(connection)
        outcome = self._provider.run_outcome(value)
        self._handle._check_time_left(SHARE_OF_LEASE)
        self._joined = joined
        self._begin()
        return self._complete(joined, outcome)

    async def _complete(self, joined: JoinedStore, outcome: str) -> None:
        once, nonce = self._once, self._handle._nonce
        async with self._handle._guard:  # a renewal that is on its way comes first
            written = await ask(joined.complete_run, once.key, nonce, "done", outcome, once.keep)
        if not written:
            raise LeaseLostError(once.key, _TAKEN_OVER)

    def value(self) -> Any:
        """Return the result that was kept."""
        assert self.kept is not None, "it was completed"
        return self._provider.run_value(self._once.key, self.kept.outcome)

    def is_open(self) -> bool:
        """Return whether the transaction of the caller's connection has not ended."""
        return self._joined is not None and self._joined.in_transaction()

    async def was_committed(self) -> bool:
        """Ask the store whether the run is done.

        :raises PersistenceError: if the store fails
        """
        await self._read()
        return self.kept is not None

    async def settle(self) -> None:
        """Find out for good whether the run is done; if it is not, let the next caller run.

        :raises LeaseLostError: if somebody else has taken it over
        :raises RunError: if it was not completed, and never will be by that transaction
        :raises PersistenceError: if the store fails
        """
        key, nonce = self._once.key, self._handle._nonce
        record = await self._read()
        if self.kept is None and self.is_open():
            raise RunError(
                key, "its transaction was not committed; commit it inside the block of the run"
            )
        if record is not None and record.lease.nonce == nonce:
            await ask(self._provider.abandon_run, key, nonce)
            record = await self._read()
        self.is_over = True
        if self.kept is not None:
            return
        if record is not None and record.lease.released_by == nonce:
            raise RunError(
                key, "its transaction was not committed; the next caller runs in its place"
            )
        raise LeaseLostError(key, _TAKEN_OVER)

    async def _read(self) -> RunRecord | None:
        record = await ask(self._provider.read_run, self._once.key)
        if record is not None and (record.state, record.lease.released_by) == (
            "done",
            self._handle._nonce,
        ):
            self.kept = record
        return record

    def _begin(self) -> None:
        if not self.begun:
            self.begun, self.made_at = True, monotonic()
            self._renewal.end(self._is_done)

    async def _is_done(self) -> bool:
        """Return whether the lease is needed no more, as far as the store tells."""
        try:
            done = await self.was_committed()
        except GogoscopeError:
            return False
        if done:
            self._handle._outlive()
        return done
