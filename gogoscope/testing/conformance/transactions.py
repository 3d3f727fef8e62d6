"""What must hold of a store whose changes may be a part of its caller's transactions.

Derive a class from the one of the two Protocols that the store has, and override what it says. A
store that returns parts of transactions::

    class TestMyTransactions(TransactItemsConformance):
        @pytest.fixture
        def open_store(self):
            return my_store

        @pytest.fixture
        def send(self, client):
            return lambda items: client.send_all_or_none(items)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.lock_records import LockRecord
from gogoscope.testing.conformance.base import ManualClock, OnOpenStore
from gogoscope.testing.conformance.jobs.rules import save, taken
from gogoscope.testing.conformance.runs.rules import KEEP, LEASE_MS, a_claim, begun, done

Send = Callable[[list[dict[str, Any]]], Awaitable[bool]]
"""Sends a transaction of these parts; ``False`` if it was cancelled, since a condition failed."""
Begin = Callable[[], AbstractAsyncContextManager[Any]]
"""Begins a transaction on a connection, which is committed unless an exception leaves the block."""
OVER = LEASE_MS / 1000 + 1


class _Rules(OnOpenStore):
    """What both have in common: how they look at what was kept."""

    async def result(self, store: Any, key: str = "run") -> Any:
        """Return the result that is kept of a run; ``None`` if there is none."""
        record = await store.read_run(key)
        if record is None or record.state != "done":
            return None
        return store.run_value(key, record.outcome)

    async def state(self, store: Any, key: str = "job") -> Any:
        """Return the state that was saved last."""
        record = await store.read_job(key)
        return store.job_state(key, record.state)


@pytest.mark.anyio
class TransactItemsConformance(_Rules):
    """Every rule of ``TransactItems``; override ``open_store`` and ``send``."""

    @pytest.fixture
    def send(self) -> Send:
        """Return what sends a transaction, all of its parts or none; override it."""
        pytest.fail("override the fixture send: it sends a transaction", pytrace=False)

    def part(self, store: Any, run: Any, value: Any, key: str = "run") -> dict[str, Any]:
        """Return the part that completes a run."""
        part: dict[str, Any] = store.run_transact_item(key, run, store.run_outcome(value), KEEP)
        return part

    def saving(self, store: Any, lease: LockRecord, saves: int, state: Any) -> dict[str, Any]:
        """Return the part that saves a job."""
        job = JobRecord(lease, 1, saves=saves, state=store.job_text(state), done=saves)
        part: dict[str, Any] = store.job_transact_item("job", job)
        return part

    async def test_a_transaction_keeps_the_result_of_a_run(
        self, store: Any, send: Send, clock: ManualClock
    ) -> None:
        run = (await begun(store, "a")).record
        assert await send([self.part(store, run, {"receipt": [7, "\u00e9"]})])
        assert await self.result(store) == {"receipt": [7, "\u00e9"]}
        later = await store.claim_run("run", a_claim("b"))
        assert (later.granted, later.record.state) == (False, "done")
        clock.now += KEEP + 1
        assert (await store.claim_run("run", a_claim("c"))).granted

    async def test_a_part_that_was_not_sent_changes_nothing(self, store: Any, send: Send) -> None:
        run = (await begun(store, "a")).record
        self.part(store, run, "never sent")
        assert await store.read_run("run") == run
        assert await done(store, "a", "without a transaction")

    async def test_the_parts_of_a_transaction_happen_all_or_not_at_all(
        self, store: Any, send: Send
    ) -> None:
        first, second = [(await begun(store, "a", key)).record for key in ("one", "two")]
        await store.abandon_run("two", "a")
        parts = [self.part(store, first, 1, "one"), self.part(store, second, 2, "two")]
        assert not await send(parts)
        assert await self.result(store, "one") is None
        assert await send(parts[:1])
        assert await self.result(store, "one") == 1

    async def test_a_renewal_between_making_and_sending_does_no_harm(
        self, store: Any, send: Send, clock: ManualClock
    ) -> None:
        run = (await begun(store, "a")).record
        part = self.part(store, run, "done")
        clock.now += 1
        assert (await store.renew_run("run", "a", run.lease.version, LEASE_MS, 0)).granted
        assert await send([part])
        assert await self.result(store) == "done"

    async def test_a_renewal_that_lands_after_the_transaction_changes_nothing(
        self, store: Any, send: Send
    ) -> None:
        run = (await begun(store, "a")).record
        assert await send([self.part(store, run, "done")])
        assert not (await store.renew_run("run", "a", run.lease.version, LEASE_MS, 0)).granted
        assert not await store.abandon_run("run", "a")
        assert await self.result(store) == "done"

    async def test_a_transaction_that_completes_a_run_lands_once(
        self, store: Any, send: Send
    ) -> None:
        run = (await begun(store, "a")).record
        part = self.part(store, run, "done")
        assert await send([part])
        assert not await send([part])
        assert await self.result(store) == "done"

    async def test_the_transaction_of_a_run_that_was_taken_over_is_cancelled(
        self, store: Any, send: Send, clock: ManualClock
    ) -> None:
        zombie = self.part(store, (await begun(store, "a")).record, "of a zombie")
        clock.now += OVER
        await begun(store, "b")
        assert not await send([zombie])
        assert await done(store, "b", "of the next")
        assert not await send([zombie])
        assert await self.result(store) == "of the next"

    async def test_the_transaction_of_a_run_that_is_unknown_is_cancelled(
        self, store: Any, send: Send, clock: ManualClock
    ) -> None:
        run = (await begun(store, "a", after_crash="ask")).record
        part = self.part(store, run, "late")
        clock.now += OVER
        asked = await store.claim_run("run", a_claim("b"))
        assert asked.record.state == "unknown"
        assert not await send([part])
        assert await self.result(store) is None

    async def test_a_transaction_saves_the_state_of_a_job_and_leaves_its_lease_alone(
        self, store: Any, send: Send
    ) -> None:
        lease = (await taken(store, "a")).record.lease
        assert await send([self.saving(store, lease, 1, {"after": 1})])
        record = await store.read_job("job")
        assert (record.saves, record.done, record.lease) == (1, 1, lease)
        assert await self.state(store) == {"after": 1}
        assert (await save(store, lease, {"after": 2})).granted

    async def test_a_transaction_that_saves_a_job_lands_once_and_before_every_later_save(
        self, store: Any, send: Send
    ) -> None:
        lease = (await taken(store, "a")).record.lease
        first, second = (self.saving(store, lease, number, number) for number in (1, 2))
        assert await send([second])
        assert not await send([second])
        assert not await send([first])
        assert await self.state(store) == 2

    async def test_the_transaction_of_a_job_that_was_taken_over_or_has_ended_is_cancelled(
        self, store: Any, send: Send, clock: ManualClock
    ) -> None:
        zombie = self.saving(store, (await taken(store, "a")).record.lease, 5, "of a zombie")
        clock.now += OVER
        lease = (await taken(store, "b")).record.lease
        assert not await send([zombie])
        late = self.saving(store, lease, 6, "late")
        assert (await save(store, lease, "last")).granted
        assert await store.finish_job("job", "b", KEEP)
        assert not await send([late])
        assert await self.state(store) == "last"


class _RolledBackError(Exception):
    """Ends a transaction that is not to be committed."""


@pytest.mark.anyio
class JoinsConnectionsConformance(_Rules):
    """Every rule of ``JoinsConnections``; override ``open_store`` and ``begin``."""

    @pytest.fixture
    def begin(self) -> Begin:
        """Return what begins a transaction on a connection; override it."""
        pytest.fail("override the fixture begin: it begins a transaction", pytrace=False)

    async def complete(self, joined: Any, nonce: str, value: Any, key: str = "run") -> bool:
        """Complete a run in the transaction."""
        completed: bool = await joined.complete_run(
            key, nonce, "done", joined.run_outcome(value), KEEP
        )
        return completed

    async def test_what_was_committed_happened_and_nobody_saw_it_before(
        self, store: Any, begin: Begin
    ) -> None:
        run = (await begun(store, "a")).record
        async with begin() as connection:
            assert await self.complete(store.joined(connection), "a", {"receipt": [7, "\u00e9"]})
            assert await store.read_run("run") == run
        assert await self.result(store) == {"receipt": [7, "\u00e9"]}

    async def test_what_was_rolled_back_never_happened(self, store: Any, begin: Begin) -> None:
        run = (await begun(store, "a")).record
        job = (await taken(store, "a")).record
        with pytest.raises(_RolledBackError):
            async with begin() as connection:
                joined = store.joined(connection)
                assert await self.complete(joined, "a", "rolled back")
                assert (await save(joined, job.lease, "rolled back")).granted
                raise _RolledBackError
        assert await store.read_run("run") == run
        assert await store.read_job("job") == job
        assert await done(store, "a", "without a transaction")

    async def test_changes_of_one_transaction_happen_all(self, store: Any, begin: Begin) -> None:
        await begun(store, "a", "one")
        await begun(store, "b", "two")
        lease = (await taken(store, "c")).record.lease
        async with begin() as connection:
            joined = store.joined(connection)
            assert await self.complete(joined, "a", 1, "one")
            assert await self.complete(joined, "b", 2, "two")
            assert (await save(joined, lease, 3)).granted
        assert [await self.result(store, key) for key in ("one", "two")] == [1, 2]
        assert await self.state(store) == 3

    async def test_completing_twice_in_one_transaction_changes_nothing_more(
        self, store: Any, begin: Begin
    ) -> None:
        await begun(store, "a")
        async with begin() as connection:
            joined = store.joined(connection)
            for _ in range(2):
                assert await self.complete(joined, "a", "done")
            assert not await self.complete(joined, "a", "another")
        assert await self.result(store) == "done"

    async def test_whoever_was_taken_over_completes_and_saves_nothing(
        self, store: Any, begin: Begin, clock: ManualClock
    ) -> None:
        await begun(store, "a")
        old = (await taken(store, "a")).record.lease
        clock.now += OVER
        await begun(store, "b")
        new = (await taken(store, "b")).record.lease
        async with begin() as connection:
            joined = store.joined(connection)
            assert not await self.complete(joined, "a", "of a zombie")
            assert not (await save(joined, old, "of a zombie")).granted
        assert await done(store, "b", "of the next")
        assert (await save(store, new, "of the next")).granted
        assert await self.result(store) == await self.state(store) == "of the next"

    async def test_a_store_on_a_connection_says_whether_its_transaction_is_open(
        self, store: Any, begin: Begin
    ) -> None:
        async with begin() as connection:
            joined = store.joined(connection)
            assert joined.in_transaction()
        assert not joined.in_transaction()

    async def test_what_is_no_connection_is_refused(self, store: Any) -> None:
        for other in (None, store, "a connection"):
            with pytest.raises(TypeError, match="connection must be"):
                store.joined(other)
