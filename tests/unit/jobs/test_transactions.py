"""Transactions of a caller's that complete a run or save a job: what becomes of the lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import KeptError, LeaseLostError, RunError, scope
from gogoscope.events import Event, JobSaved, RunAbandoned, RunCompleted
from gogoscope.testing import UnpluggableStore, VirtualClock
from tests.unit.jobs.transacting_store import TransactingStore

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Run:
    """Run a program in virtual time."""
    return lambda program: virtual_clock.run(program, backend=request.param)


def test_a_run_that_a_transaction_completes_is_renewed_no_more_and_outlives_its_lease(
    run: Run,
) -> None:
    async def program() -> None:
        inner = TransactingStore()
        store = UnpluggableStore(inner)
        async with scope(persistence=store) as s, s.claim("k", 600, lease=30) as claimed:
            await anyio.sleep(95)
            renewals = store.requests["renew_run"]
            assert renewals == 9
            assert await inner.complete(claimed.transact_item("receipt"))
            assert store.requests["read_run"] == 0
            await anyio.sleep(300)
            claimed.ensure()
            assert store.requests["renew_run"] == renewals
            assert store.requests["read_run"] == 1
        assert store.requests["read_run"] == 2
        assert store.requests["complete_run"] == store.requests["abandon_run"] == 0

    run(program)


def test_a_run_whose_transaction_does_not_come_is_lost_with_its_lease(run: Run) -> None:
    async def program() -> None:
        store = TransactingStore()
        async with scope(persistence=store) as s:
            with pytest.raises(LeaseLostError):
                async with s.claim("k", 600, lease=30) as claimed:
                    claimed.transact_item("receipt")
                    with anyio.fail_after(31):
                        await anyio.sleep_forever()

    run(program)


@pytest.mark.parametrize("kind", ["run", "job"])
def test_a_lease_that_is_nearly_over_has_no_time_for_a_transaction(run: Run, kind: str) -> None:
    async def program() -> None:
        store = UnpluggableStore(TransactingStore())
        async with scope(persistence=store) as s:
            block: Any = s.claim("k", 600, lease=30) if kind == "run" else s.job("k", lease=30)
            with pytest.raises(LeaseLostError, match=r"only 5 s of it are left, where 10 s"):
                async with block as held:
                    store.unplug()
                    await anyio.sleep(20)
                    held.transact_item(1)
                    await anyio.sleep(5)
                    held.ensure()
                    held.transact_item(1)

    run(program)


def test_a_store_that_fails_at_the_end_of_the_lease_leaves_the_run_lost(run: Run) -> None:
    async def program() -> None:
        inner = TransactingStore()
        store = UnpluggableStore(inner)
        async with scope(persistence=store) as s:
            with pytest.raises(LeaseLostError):
                async with s.claim("k", 600, lease=30) as claimed:
                    assert await inner.complete(claimed.transact_item("receipt"))
                    store.unplug()
                    await anyio.sleep(60)
            store.plug_in()
            async with s.claim("k", 600) as again:
                assert again.result == "receipt"

    run(program)


def test_the_end_of_the_block_asks_until_the_store_answers(run: Run) -> None:
    async def program() -> None:
        inner = TransactingStore()
        store = UnpluggableStore(inner)
        async with scope(persistence=store) as s, s.claim("k", 600, lease=30) as claimed:
            assert await inner.complete(claimed.transact_item("receipt"))
            store.unplug()
            s.task(plug_in, store, 2.0)
        assert claimed.result == "receipt"

    async def plug_in(store: UnpluggableStore, seconds: float) -> None:
        await anyio.sleep(seconds)
        store.plug_in()

    run(program)


def test_events_tell_whether_the_transaction_was_committed(run: Run) -> None:
    async def program() -> None:
        store = TransactingStore()
        events: list[Event] = []
        async with scope(persistence=store, on_event=events.append) as s:
            async with s.claim("a", 600) as claimed:
                assert await store.complete(claimed.transact_item(1))
            with pytest.raises(RunError):
                async with s.claim("b", 600) as claimed:
                    claimed.transact_item(1)
            with pytest.raises(ValueError, match="after the commit"):
                async with s.claim("c", 600) as claimed:
                    assert await store.complete(claimed.transact_item(1))
                    raise ValueError("after the commit")
            with pytest.raises(ValueError, match="before the commit"):
                async with s.claim("d", 600) as claimed:
                    claimed.transact_item(1)
                    raise ValueError("before the commit")
            with pytest.raises(ValueError, match="to be kept, too late"):
                async with s.claim("e", 600, keep_errors=ValueError) as claimed:
                    assert await store.complete(claimed.transact_item(1))
                    raise ValueError("to be kept, too late")
        told = [event for event in events if isinstance(event, RunCompleted | RunAbandoned)]
        assert [(type(event), event.key) for event in told] == [
            (RunCompleted, "a"),
            (RunAbandoned, "b"),
            (RunCompleted, "c"),
            (RunAbandoned, "d"),
            (RunCompleted, "e"),
        ]

    run(program)


def test_an_error_that_is_to_be_kept_ends_the_run_in_place_of_its_transaction(run: Run) -> None:
    async def program() -> None:
        store = TransactingStore()
        items: list[dict[str, Any]] = []
        async with scope(persistence=store) as s:
            with pytest.raises(ValueError, match="declined"):
                async with s.claim("k", 600, keep_errors=ValueError) as claimed:
                    items.append(claimed.transact_item(1))
                    raise ValueError("declined")
            assert not await store.complete(items[0])
            with pytest.raises(KeptError, match="declined"):
                async with s.claim("k", 600):
                    pytest.fail("it runs")

    run(program)


def test_callers_in_the_line_get_what_a_transaction_has_completed(run: Run) -> None:
    async def program() -> None:
        inner = TransactingStore()
        store = UnpluggableStore(inner)
        results: list[Any] = []

        async def duplicate() -> None:
            async with s.claim("k", 600) as again:
                results.append(again.result)

        async with scope(persistence=store) as s:
            async with s.claim("k", 600) as claimed:
                duplicates = [s.task(duplicate) for _ in range(20)]
                await anyio.sleep(1)
                assert await inner.complete(claimed.transact_item("receipt"))
            for task in duplicates:
                (await task).unwrap()
        assert results == ["receipt"] * 20
        assert store.requests["claim_run"] == 1

    run(program)


def test_a_job_whose_transactions_follow_each_other_is_renewed_all_the_same(run: Run) -> None:
    async def program() -> None:
        inner = TransactingStore()
        store = UnpluggableStore(inner)
        events: list[Event] = []
        async with (
            scope(persistence=store, on_event=events.append) as s,
            s.job("k", 0, lease=30) as job,
        ):
            for n in range(100):
                item = job.transact_item(n, done=n)
                assert (item["saves"], item["state"], item["done"]) == (n + 1, n, n)
                await anyio.sleep(1)
            assert job.progress.done == 99
        assert store.requests["renew_job"] == 6  # at the half of each lease, instead of its third
        assert sum(isinstance(event, JobSaved) for event in events) == 100

    run(program)


def test_a_job_is_not_renewed_while_a_transaction_may_be_on_its_way(run: Run) -> None:
    async def program() -> None:
        inner = TransactingStore()
        store = UnpluggableStore(inner)
        async with scope(persistence=store) as s, s.job("k", 0, lease=30) as job:
            await anyio.sleep(9)
            job.transact_item(1)
            await anyio.sleep(5)
            assert store.requests["renew_job"] == 0
            await anyio.sleep(2)
            assert store.requests["renew_job"] == 1

    run(program)


def test_a_save_after_a_transaction_has_a_higher_number(run: Run) -> None:
    async def program() -> None:
        store = TransactingStore()
        async with scope(persistence=store) as s, s.job("k", 0) as job:
            await job.save(1)
            assert [job.transact_item(n)["saves"] for n in (2, 3)] == [2, 3]
            await job.save(4)
            record = await store.read_job("k")
            assert record is not None
            assert record.saves == 4
            assert job.transact_item(5)["saves"] == 5

    run(program)
