"""``s.resume``: each item is run until it is done, whichever process dies meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gogoscope import (
    CorruptRecordError,
    LockTimeoutError,
    RecordTooLargeError,
    StoreConnectionError,
    TaskCancelled,
    current_scope,
    scope,
)
from gogoscope.events import Event, JobSaved
from gogoscope.jobs.positions import Positions
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio


class Loads:
    """Loads rows, and counts how often each was loaded; those in ``broken`` fail."""

    def __init__(self, *broken: int) -> None:
        self.calls: Counter[int] = Counter()
        self.broken = set(broken)

    async def __call__(self, row: int) -> int:
        self.calls[row] += 1
        await anyio.sleep(0)
        if row in self.broken:
            raise OSError(f"row {row}")
        return row * 10


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def rows(count: int) -> AsyncIterator[int]:
    for row in range(count):
        yield row


async def test_every_item_is_run_once_and_a_finished_job_yields_nothing(store: MemoryStore) -> None:
    load = Loads()
    async with scope(persistence=store) as s:
        seen = [(row, result.unwrap()) async for row, result in s.resume("r", load, rows(50))]
        assert sorted(seen) == [(row, row * 10) for row in range(50)]
        assert [row async for row in s.resume("r", load, rows(50))] == []
        again = [row async for row, _ in s.resume("r", load, range(5), restart=True)]
        assert sorted(again) == [0, 1, 2, 3, 4]
    assert load.calls.total() == 55


async def test_a_loop_that_is_left_goes_on_where_it_stopped(store: MemoryStore) -> None:
    load = Loads()
    done: list[int] = []

    async def some(how_many: int) -> None:
        async with scope(persistence=store) as s:
            left = how_many
            async for row, result in s.resume("r", load, range(30), limit=4):
                result.unwrap()
                done.append(row)
                left -= 1
                if not left:
                    break

    for _ in range(4):
        await some(10)
    assert set(done) == set(range(30))
    # What was in flight, and what the loop was left with, ran once more.
    assert load.calls.total() <= 30 + 3 * (4 + 1)


async def test_after_an_error_in_the_loop_its_item_comes_again(store: MemoryStore) -> None:
    load = Loads()
    with pytest.raises(KeyError, match="of the loop"):
        async with scope(persistence=store) as s:
            async for row, result in s.resume("r", load, range(10), limit=1):
                result.unwrap()
                if row == 5:
                    raise KeyError("of the loop")
    async with scope(persistence=store) as s:
        rest = [row async for row, _ in s.resume("r", load, range(10), limit=1)]
    assert rest == [5, 6, 7, 8, 9]


async def test_an_item_that_cancels_the_job_ends_the_loop_and_comes_again(
    store: MemoryStore,
) -> None:
    load = Loads()

    async def load_or_cancel(row: int) -> int:
        job = current_scope()
        if row == 5 and load.calls[5] == 0 and job is not None:
            job.cancel()
        return await load(row)

    seen: list[int] = []
    async with scope(persistence=store) as s:
        with pytest.raises(TaskCancelled, match="job 'r' was cancelled"):
            async for row, result in s.resume("r", load_or_cancel, range(10), limit=1):
                result.unwrap()
                seen.append(row)
    assert seen == [0, 1, 2, 3, 4]
    async with scope(persistence=store) as s:
        rest = [row async for row, _ in s.resume("r", load, range(10), limit=1)]
    assert rest == [5, 6, 7, 8, 9]


async def test_a_failed_item_is_done_once_its_error_was_read(store: MemoryStore) -> None:
    load = Loads(3, 4)
    found: list[int] = []

    async def run(*unread: int, **options: Any) -> list[int]:
        found.clear()
        async with scope(persistence=store) as s:
            async for row, result in s.resume("r", load, range(6), limit=1, **options):
                found.append(row)
                if row not in unread:
                    result.error  # noqa: B018 - reads it
        return found

    with pytest.raises(ExceptionGroup, match="unhandled"):
        await run(4)
    assert found == [0, 1, 2, 3, 4, 5]
    assert await run() == [4]
    assert await run() == []
    load.broken.remove(4)
    assert await run(retry_failed=True) == [3, 4]
    assert await run(retry_failed=True) == [3]


async def test_two_processes_do_one_job_one_at_a_time(store: MemoryStore) -> None:
    load = Loads()
    async with scope(persistence=store) as s:
        async for _, result in s.resume("r", load, range(3)):
            result.unwrap()
            with pytest.raises(LockTimeoutError):
                async for _ in s.resume("r", load, range(3), wait=0):
                    pytest.fail("two have it")
    assert load.calls.total() == 3


async def test_what_is_left_of_a_limit_of_tasks_is_enough(store: MemoryStore) -> None:
    load = Loads()
    with anyio.fail_after(5):
        async with scope(persistence=store, concurrency=1) as s:

            async def work() -> int:
                return len([row async for row in s.resume("r", load, range(20), limit=5)])

            assert await s.call(work) == 20


async def test_it_saves_no_more_often_than_it_may(store: MemoryStore) -> None:
    saves: list[Any] = []
    save_job = store.save_job

    async def counted(*args: Any, **options: Any) -> Any:
        saves.append(args)
        return await save_job(*args, **options)

    store.save_job = counted  # type: ignore[method-assign]
    async with scope(persistence=store) as s:
        async for _, result in s.resume("r", Loads(), range(500), save_every=60):
            result.unwrap()
    assert len(saves) == 1


async def test_a_loop_can_be_taken_once(store: MemoryStore) -> None:
    async with scope(persistence=store) as s:
        resumed = s.resume("r", Loads(), range(2))
        assert "not started" in repr(resumed)
        assert len([row async for row in resumed]) == 2
        with pytest.raises(RuntimeError, match="looped over before"):
            aiter(resumed)


async def test_what_makes_no_sense_is_refused_at_once(store: MemoryStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(TypeError, match="items must be iterable"):
            s.resume("r", Loads(), 7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="retry_failed"):
            s.resume("r", Loads(), [], retry_failed=1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="save_every"):
            s.resume("r", Loads(), [], save_every=-1)


async def test_the_state_of_another_job_is_refused(store: MemoryStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            async with s.job("r") as job:
                await job.save(["not", "ours"])
                raise OSError("broken")
        with pytest.raises(CorruptRecordError, match=r"not of s\.resume"):
            async for _ in s.resume("r", Loads(), range(2)):
                pytest.fail("it runs")


@pytest.mark.parametrize(
    "state",
    [
        7,
        {},
        {"below": -1, "beyond": [], "failed": []},
        {"below": 0, "beyond": [0, 10**12], "failed": []},
        {"below": 0, "beyond": [0], "failed": []},
        {"below": 0, "beyond": [], "failed": ["0", 1]},
        {"below": 0, "beyond": 5, "failed": []},
    ],
)
def test_a_state_that_somebody_else_wrote_is_refused(state: Any) -> None:
    with pytest.raises(CorruptRecordError):
        Positions(state)


def test_what_is_kept_of_many_failed_items_is_short() -> None:
    positions = Positions()
    for position in range(100_000):
        positions.add(position, failed=position % 3 == 0)
    assert len(MemoryStore().job_text(positions.state())) < 200_000


@pytest.mark.slow_elsewhere
async def test_cancelled_at_any_point_a_loop_leaves_the_job_free_and_no_item_lost(
    store: MemoryStore,
) -> None:
    steps = 0
    ended = False

    async def work(key: str) -> None:
        nonlocal ended
        async with scope(persistence=store) as s:
            async for row, result in s.resume(key, load, range(5), limit=2, save_every=0):
                result.unwrap()
                looped.append(row)
                await anyio.lowlevel.checkpoint()
        ended = True

    while not ended:
        steps += 1
        load, looped = Loads(), list[int]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, f"job {steps}")
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        async with scope(persistence=store) as s:
            resumed = s.resume(f"job {steps}", load, range(5), limit=2, save_every=0, wait=0)
            async for row, result in resumed:
                result.unwrap()
                looped.append(row)
        assert set(looped) == set(range(5))
        assert len(looped) <= 6
        assert load.calls.total() <= 5 + 3
    assert steps > 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans())), st.booleans())
def test_positions_are_what_was_added_however_often_they_are_saved(
    added: list[tuple[int, bool]], retry_failed: bool
) -> None:
    positions, last = Positions(), dict[int, bool]()
    for position, failed in added:
        positions.add(position, failed=failed)
        positions = Positions(positions.state())
        last[position] = failed
    loaded = Positions(positions.state(), retry_failed=retry_failed)
    done = {position for position, failed in last.items() if not (failed and retry_failed)}
    assert {position for position in range(50) if position in loaded} == done
    assert loaded.count == len(done)


async def test_the_progress_counts_what_the_loop_is_done_with(store: MemoryStore) -> None:
    load = Loads()
    counts: list[int] = []
    async with scope(persistence=store) as s:
        resumed = s.resume("r", load, range(20), limit=3)
        assert (resumed.progress.done, resumed.progress.total) == (0, 20)
        async for _, result in resumed:
            result.unwrap()
            counts.append(resumed.progress.done)
            if len(counts) == 12:
                break
        again = s.resume("r", load, range(20), limit=3)
        async for _, result in again:
            result.unwrap()
            counts.append(again.progress.done)
        assert (again.progress.done, again.progress.total) == (20, 20)
        assert repr(again) == "<s.resume('r') succeeded: 20 of 20 (100 %)>" or again.progress.rate
        done = s.resume("r", load, range(20))
        assert [row async for row in done] == []
        assert (done.progress.done, done.progress.total) == (20, 20)
    assert counts == [*range(12), *range(11, 20)]


async def test_the_number_of_items_is_known_at_the_end_or_told(store: MemoryStore) -> None:
    async with scope(persistence=store) as s:
        resumed = s.resume("r", Loads(), rows(7))
        totals = [resumed.progress.total async for _ in resumed]
        assert totals == [None] * 7
        assert (resumed.progress.done, resumed.progress.total) == (7, 7)
        told = s.resume("t", Loads(), rows(7), total=7)
        assert [told.progress.total async for _ in told] == [7] * 7
    jobs = await store.jobs()
    assert {key: (job.done, job.total) for key, job in jobs.items()} == {"r": (7, 7), "t": (7, 7)}


async def test_an_event_for_each_save_tells_how_far_it_has_come(store: MemoryStore) -> None:
    saved: list[JobSaved] = []

    def watch(event: Event) -> None:
        if isinstance(event, JobSaved):
            saved.append(event)

    async with scope(persistence=store, on_event=watch) as s:
        async for row, result in s.resume("r", Loads(), range(10), limit=1, save_every=0):
            result.unwrap()
            if row == 6:
                break
    async with scope(persistence=store, on_event=watch) as s:
        async for _, result in s.resume("r", Loads(), range(10), limit=1, save_every=0):
            result.unwrap()
    assert [event.done for event in saved] == [*range(1, 11)]  # and none twice
    assert {event.total for event in saved} == {10}
    assert all(event.rate is None or event.rate > 0 for event in saved)


async def test_what_is_done_is_saved_in_time_though_no_item_comes_after_it(
    store: MemoryStore,
) -> None:
    saved = anyio.Event()

    def watch(event: Event) -> None:
        if isinstance(event, JobSaved) and event.done == 2:
            saved.set()

    async def load(row: int) -> None:
        if row == 2:
            await saved.wait()

    async with scope(persistence=store, on_event=watch) as s:
        with anyio.fail_after(20):
            async for _, result in s.resume("r", load, range(3), limit=1, save_every=0.05):
                result.unwrap()


class FailingStore(MemoryStore):
    """Does not save as long as it is told so."""

    failure: Exception | None = None
    tries = 0

    async def save_job(self, *args: Any, **options: Any) -> Any:
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        return await super().save_job(*args, **options)


async def test_a_store_that_fails_for_a_while_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, load = FailingStore(), Loads()
    store.failure = StoreConnectionError("down")
    async with scope(persistence=store) as s:
        async for row, result in s.resume("r", load, range(5), limit=1, save_every=0):
            result.unwrap()
            if row == 4:
                store.failure = None
        assert (await store.jobs())["r"].done == 5
    assert load.calls.total() == 5
    assert "goes on, though its store failed" in caplog.text


async def test_what_cannot_be_saved_ever_ends_the_loop() -> None:
    store = FailingStore()
    store.failure = RecordTooLargeError("too large")
    async with scope(persistence=store) as s:
        with pytest.raises(RecordTooLargeError):
            async for _, result in s.resume("r", Loads(), range(5), save_every=0):
                result.unwrap()
        assert (await store.jobs())["r"].state == "waiting"


@pytest.mark.parametrize("how", ["break", "error", "cancel"])
async def test_a_last_save_that_fails_changes_nothing_about_how_the_loop_was_left(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FailingStore()

    async def work() -> None:
        async for row, result in s.resume("r", Loads(), range(50), limit=1, save_every=60):
            result.unwrap()
            if row == 3:
                store.failure = StoreConnectionError("down")
                if how == "break":
                    break
                if how == "error":
                    raise KeyError("of the loop")
                task.cancel("enough")
                await anyio.sleep_forever()

    async with scope(persistence=store) as s:
        task = s.task(work)
        error = (await task).error
    expected = {"break": type(None), "error": KeyError, "cancel": TaskCancelled}
    assert type(error) is expected[how]
    assert store.tries == 1
    assert "runs again" in caplog.text


async def test_an_error_of_the_source_is_raised_and_what_came_before_it_is_done(
    store: MemoryStore,
) -> None:
    async def some() -> AsyncIterator[int]:
        for row in range(4):
            yield row
        raise OSError("of the source")

    load = Loads()
    for _ in range(2):
        with pytest.raises(OSError, match="of the source"):
            async with scope(persistence=store) as s:
                async for _, result in s.resume("r", load, some()):
                    result.unwrap()
    assert load.calls == Counter(range(4))
    job = (await store.jobs())["r"]
    assert (job.state, job.done, job.total) == ("waiting", 4, None)
