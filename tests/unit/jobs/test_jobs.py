"""``s.job``: work that survives its process, and goes on from the state that was saved last."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY

import anyio
import anyio.lowlevel
import pytest

from gogoscope import (
    JobVersionError,
    LeaseLostError,
    LockError,
    LockTimeoutError,
    Scope,
    StoreTimeoutError,
    TaskCancelled,
    scope,
)
from gogoscope.events import Event, JobEnded, JobSaved, JobStarted
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores import MemoryStore
from gogoscope.testing.conformance import ManualClock

pytestmark = pytest.mark.anyio


class JobStore(MemoryStore):
    """Loses the answers to saves as often as it is told to."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        super().__init__(clock=self.clock)
        self.lost_answers = 0
        self.lost_ends = 0
        self.saves = 0

    async def save_job(self, *args: Any, **options: Any) -> Any:
        self.saves += 1
        answer = await super().save_job(*args, **options)
        if self.lost_answers:
            self.lost_answers -= 1
            raise StoreTimeoutError("the answer was lost")
        return answer

    async def finish_job(self, *args: Any, **options: Any) -> Any:
        answer = await super().finish_job(*args, **options)
        if self.lost_ends:
            self.lost_ends -= 1
            raise StoreTimeoutError("the answer was lost")
        return answer

    async def take_over(self, key: str) -> None:
        """Let the lease of a job be over, and another process have it."""
        self.clock.now += 3600
        claim = LockClaim(nonce="next", owner="next", lease_ms=60_000)
        assert (await super().claim_job(key, claim, 1)).granted


def another_process(store: JobStore) -> JobStore:
    other = JobStore()
    other.clock = store.clock
    other._records = store._records
    return other


@pytest.fixture
def store() -> JobStore:
    return JobStore()


async def test_after_an_error_the_next_holder_goes_on_from_the_saved_state(store: JobStore) -> None:
    tokens: list[int] = []
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            async with s.job("import", {"after": 0}) as job:
                assert (job.state, job.finished) == ({"after": 0}, False)
                await job.save({"after": 1})
                await job.save({"after": 2})
                assert job.state == {"after": 2}
                tokens.append(job.fencing_token)
                raise OSError("broken")
        async with s.job("import", {"after": 0}) as again:
            assert (again.state, again.finished) == ({"after": 2}, False)
            assert again.fencing_token > tokens[0]


async def test_a_job_whose_block_ended_without_an_error_has_finished(store: JobStore) -> None:
    async with scope(persistence=store) as s:
        async with s.job("import", 0, keep=60) as job:
            await job.save(7)
        async with s.job("import", 0, keep=60) as job:
            assert (job.state, job.finished) == (7, True)
        async with s.job("import", 0, restart=True, keep=60) as job:
            assert (job.state, job.finished) == (0, False)
        store.clock.now += 61
        async with s.job("import", 5) as job:
            assert (job.state, job.finished) == (5, False)


async def test_a_job_that_has_not_finished_is_never_forgotten(store: JobStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            async with s.job("import", keep=60) as job:
                await job.save("half")
                raise OSError("broken")
        store.clock.now += 10 * 365 * 86_400
        async with s.job("import") as job:
            assert job.state == "half"


async def test_one_process_at_a_time_has_the_job(store: JobStore) -> None:
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        async with s.job("import") as job:

            async def want_it(u: Scope, wait: float) -> None:
                async with u.job("import", wait=wait):
                    pytest.fail("two have it")

            for u in (s, t):
                for wait in (0, 0.05):
                    with pytest.raises(LockTimeoutError, match="job 'import' was not free"):
                        await s.call(want_it, u, wait)
            await job.save("mine")

        async def wait_for_it() -> Any:
            async with t.job("import", wait=5) as later:
                return later.state

        assert await t.call(wait_for_it) == "mine"


async def test_a_save_renews_the_lease(store: JobStore) -> None:
    async with scope(persistence=store) as s, s.job("import", lease=30) as job:
        store.clock.now += 20
        await job.save("half")
        store.clock.now += 20
        job.ensure()
        found = (await store.jobs())["import"]
        assert (found.state, found.saves) == ("running", 1)


async def test_whoever_was_taken_over_saves_nothing_any_more(store: JobStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.job("import", 0) as job:
                await job.save(1)
                await store.take_over("import")
                with pytest.raises(LeaseLostError):
                    await job.save(2)
                await anyio.sleep_forever()
        record = await store.read_job("import")
        assert record is not None
        assert store.job_state("import", record.state) == 1
        assert record.lease.nonce == "next"


async def test_whoever_was_taken_over_has_not_finished(store: JobStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.job("import", 0):
                await store.take_over("import")
        record = await store.read_job("import")
        assert record is not None
        assert record.finished_ms is None


async def test_a_save_whose_answer_is_lost_may_be_saved_and_the_next_one_is(
    store: JobStore,
) -> None:
    async with scope(persistence=store) as s, s.job("import", 0) as job:
        store.lost_answers = 1
        with pytest.raises(StoreTimeoutError):
            await job.save(1)
        await job.save(2)
        assert job.state == 2
        record = await store.read_job("import")
        assert record is not None
        assert store.job_state("import", record.state) == 2


async def test_a_state_of_an_older_version_is_migrated_or_refused(store: JobStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            async with s.job("import", 0) as job:
                await job.save(7)
                raise OSError("broken")
        with pytest.raises(JobVersionError, match="pass migrate="):
            async with s.job("import", version=2):
                pytest.fail("it has another form")
        with pytest.raises(OSError, match="broken"):
            async with s.job(
                "import", version=2, migrate=lambda state, version: {"after": state, "was": version}
            ) as job:
                assert job.state == {"after": 7, "was": 1}
                await job.save({"after": 8})
                raise OSError("broken")
        with pytest.raises(JobVersionError, match="newer"):
            async with s.job("import"):
                pytest.fail("it has another form")
        async with s.job("import", "anew", restart=True) as job:
            assert job.state == "anew"


async def test_a_newer_version_that_saved_nothing_keeps_no_older_one_out(store: JobStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            async with s.job("import", version=2):
                raise OSError("broken")
        async with s.job("import", "from the start", version=1) as job:
            assert job.state == "from the start"


async def test_a_newer_version_that_saves_while_an_older_one_waits_keeps_it_out(
    store: JobStore,
) -> None:
    held = anyio.Event()

    async def go_back() -> None:
        await held.wait()
        with pytest.raises(JobVersionError, match="newer"):
            async with s.job("import", version=1):
                pytest.fail("it has another form")

    async with scope(persistence=store) as s:
        older = s.task(go_back)
        with pytest.raises(OSError, match="broken"):
            async with s.job("import", version=2) as job:
                held.set()
                await anyio.wait_all_tasks_blocked()
                await job.save(7)
                raise OSError("broken")
        (await older).unwrap()


async def test_a_state_that_cannot_be_kept_is_refused_and_changes_nothing(store: JobStore) -> None:
    async with scope(persistence=store) as s, s.job("import", 0) as job:
        with pytest.raises(TypeError, match="tuple"):
            await job.save((1, 2))
        assert job.state == 0
        await job.save(1)


async def test_a_cancelled_job_is_free_at_once(store: JobStore) -> None:
    async def work() -> None:
        async with s.job("import") as job:
            await job.save("half")
            began.set()
            await anyio.sleep_forever()

    began = anyio.Event()
    async with scope(persistence=store) as s:
        task = s.task(work)
        await began.wait()
        task.cancel()
        assert isinstance((await task).error, TaskCancelled)
        async with s.job("import", wait=0) as job:
            assert (job.state, job.finished) == ("half", False)


async def test_a_job_whose_own_block_is_cancelled_has_not_finished(store: JobStore) -> None:
    async with scope(persistence=store) as s:
        async with s.job("import") as job:
            await job.save("half")
            job.cancel()
            await anyio.sleep_forever()
        async with s.job("import") as job:
            assert (job.state, job.finished) == ("half", False)
            job.cancel()  # at its end, where there is nothing left to cut
        async with s.job("import") as job:
            assert job.finished


async def test_a_job_whose_tasks_are_cancelled_when_its_body_has_ended_has_not_finished(
    store: JobStore,
) -> None:
    async with scope(persistence=store) as s:

        async def cancel(job: Scope) -> None:
            await anyio.wait_all_tasks_blocked()
            job.cancel()

        async with s.job("import") as job:
            job.task(anyio.sleep_forever)
            s.task(cancel, job)
        async with s.job("import") as job:
            assert not job.finished


async def test_events_tell_of_a_job(store: JobStore) -> None:
    events: list[Event] = []
    async with scope(persistence=store, on_event=events.append) as s, s.job("import") as job:
        await job.save(1, done=1, total=3)
    told = [event for event in events if isinstance(event, JobStarted | JobSaved | JobEnded)]
    assert told == [
        JobStarted(s.name, "import", job.fencing_token, resumed=False),
        JobSaved(s.name, "import", 1, 3, ANY),
        JobEnded(s.name, "import", finished=True),
    ]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"key": ""}, ValueError, "key must not be empty"),
        ({"version": 0}, ValueError, "version must be"),
        ({"lease": 0}, ValueError, "lease must be more than 0"),
        ({"wait": -1}, ValueError, "wait must be 0 or more"),
        ({"keep": 0}, ValueError, "keep must be more than 0"),
        ({"restart": 1}, TypeError, "restart must be"),
        ({"migrate": 1}, TypeError, "migrate must be a function"),
        ({"migrate": anyio.sleep}, TypeError, "that is not async"),
    ],
)
async def test_what_makes_no_sense_is_refused_at_once(
    store: JobStore, options: Any, error: Any, text: str
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(error, match=text):
            s.job(**{"key": "import", **options})


async def test_a_job_in_a_job_of_the_same_key_is_refused(store: JobStore) -> None:
    async def inside(s: Scope) -> None:
        async with s.job("import"):
            pytest.fail("it would wait for itself")

    async with scope(persistence=store) as s, s.job("import") as job:
        with pytest.raises(LockError, match="part of job 'import' already"):
            await inside(job)
        with pytest.raises(LockError, match="part of job 'import' already"):
            await job.call(inside, s)
        async with job.job("export"):
            pass


async def test_a_migration_that_turns_out_to_be_async_is_refused(store: JobStore) -> None:
    async def migrate(state: Any, version: int) -> Any:
        return state

    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="half way"):
            async with s.job("import") as job:
                await job.save("old")
                raise OSError("half way")
        with pytest.raises(TypeError, match="migrate must be a function that is not async"):
            async with s.job("import", version=2, migrate=lambda *old: migrate(*old)):
                pytest.fail("it goes on from a coroutine")
        async with s.job("import", wait=0) as job:
            assert job.state == "old"


async def test_a_migration_that_fails_leaves_the_job_to_the_next(store: JobStore) -> None:
    def refuse(state: Any, version: int) -> Any:
        raise KeyError(state, version)

    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            async with s.job("import") as job:
                await job.save(7, done=1, total=2)
                raise OSError("broken")
        with pytest.raises(KeyError):
            async with s.job("import", version=2, migrate=refuse):
                pytest.fail("it was not migrated")
        async with s.job("import", wait=0) as job:
            assert (job.state, job.progress.done) == (7, 1)


@pytest.mark.parametrize("key", ["a b", "\u00e9\u4e2d", "%s{}/..\\'\"", "*?[x]", "k" * 200])
async def test_a_key_may_hold_any_character(store: JobStore, key: str) -> None:
    async with scope(persistence=store) as s:
        async with s.job(key) as job:
            await job.save(key)
        assert list(await store.jobs()) == [key]
        async with s.job(key, wait=0) as job:
            assert (job.state, job.finished) == (key, True)


async def test_an_end_whose_answer_is_lost_is_written_again(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gogoscope.persistence.insisting.AGAIN_SECONDS", 0.001)
    store.lost_ends = 3
    async with scope(persistence=store) as s:
        async with s.job("import") as job:
            await job.save(1)
        assert (await store.jobs())["import"].state == "finished"


@pytest.mark.parametrize("how", ["lost", "error", "refused"])
async def test_only_a_job_that_has_finished_is_told_to_have_finished(
    store: JobStore, how: str
) -> None:
    events: list[Event] = []
    with pytest.raises((LeaseLostError, KeyError)):
        async with scope(persistence=store, on_event=events.append) as s, s.job("import") as job:
            if how == "error":
                raise KeyError("broken")
            await store.take_over("import")
            if how == "lost":
                await job.save(1)
    (ended,) = [event for event in events if isinstance(event, JobEnded)]
    assert not ended.finished


@pytest.mark.slow_elsewhere
async def test_cancelled_at_any_point_a_job_is_free_at_once_in_its_last_saved_state(
    store: JobStore,
) -> None:
    told: list[int] = []
    steps = ended = 0

    async def work(key: str) -> None:
        nonlocal ended
        async with scope(persistence=store) as s, s.job(key, 0) as job:
            for number in range(1, 4):
                await job.save(number)
                told.append(number)
                await anyio.lowlevel.checkpoint()
        ended = 1

    while not ended:
        steps += 1
        told.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, f"job {steps}")
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        async with scope(persistence=store) as s, s.job(f"job {steps}", 0, wait=0) as job:
            last = told[-1] if told else 0
            assert job.state in (last, last + 1)  # one that was cancelled may be saved or not
            assert not job.finished or ended or job.state == 3
    assert steps > 5
