"""``s.resume`` killed at every one of its writes: nothing is lost, and little runs twice.

A process that is killed is played by a store that goes dead at one of its writes, before or after
that is carried out: from then on it writes nothing, and no item of that process counts any
more. ``examples/import_rows.py`` and ``forking.py`` kill real processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from gogoscope import LockTimeoutError, PersistenceError, StoreTimeoutError, scope
from gogoscope.events import Event, JobSaved
from gogoscope.stores import MemoryStore
from gogoscope.testing.conformance import ManualClock
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[3]
ITEMS, LIMIT, LEASE = 8, 3, 30.0
MAY_RUN_AGAIN = LIMIT + 1
WRITES = 1 + ITEMS + 1
"""Taking the job, a save for each item, and the end."""

When = Literal["before", "after"]


class DeadError(PersistenceError):
    """What a dead process gets from its store."""


class Process(MemoryStore):
    """The store of a process, which dies at its ``dies_at``-th write of the job.

    :param beside: a process on the same records
    """

    clock: ManualClock

    def __init__(
        self, beside: Process | None = None, dies_at: int | None = None, when: When = "before"
    ) -> None:
        self.clock = ManualClock() if beside is None else beside.clock
        super().__init__(clock=self.clock)
        if beside is not None:
            self._records = beside._records
        self.dies_at, self.when = dies_at, when
        self.writes = 0
        self.dead = False

    async def claim_job(self, *args: Any, **options: Any) -> Any:
        return await self._write(super().claim_job(*args, **options))

    async def save_job(self, *args: Any, **options: Any) -> Any:
        return await self._write(super().save_job(*args, **options))

    async def finish_job(self, *args: Any, **options: Any) -> Any:
        return await self._write(super().finish_job(*args, **options))

    async def release_job(self, *args: Any, **options: Any) -> Any:
        return await self._write(super().release_job(*args, **options))

    async def _write(self, work: Any) -> Any:
        self.writes += 1
        dies = self.writes == self.dies_at
        if self.dead or (dies and self.when == "before"):
            work.close()
            self.dead = True
            raise DeadError
        answer = await work
        if dies:
            self.dead = True
            raise DeadError
        return answer


class Import:
    """Loads rows, and counts how often each was loaded, and how often the loop had it."""

    def __init__(self) -> None:
        self.loaded: Counter[int] = Counter()
        self.looped: Counter[int] = Counter()
        self.progress: list[int] = []

    async def run(self, store: Process, limit: int = LIMIT) -> None:
        """Run it on a store until it is done, or the store goes dead."""

        async def load(row: int) -> int:
            if not store.dead:
                self.loaded[row] += 1
            await anyio.lowlevel.checkpoint()
            return row

        def watch(event: Event) -> None:
            if isinstance(event, JobSaved) and event.done is not None:
                self.progress.append(event.done)

        try:
            async with scope(persistence=store, on_event=watch) as s:
                resumed = s.resume(
                    "import", load, range(ITEMS), limit=limit, save_every=0, lease=LEASE
                )
                async for row, result in resumed:
                    assert result.unwrap() == row
                    if not store.dead:
                        self.looped[row] += 1
                assert (resumed.progress.done, resumed.progress.total) == (ITEMS, ITEMS)
        except DeadError:
            assert store.dead


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("dies_at", range(1, WRITES + 1))
async def test_killed_at_any_write_it_loses_nothing_and_runs_no_more_than_stated_again(
    dies_at: int, when: When
) -> None:
    it, first = Import(), Process(dies_at=dies_at, when=when)
    await it.run(first)
    assert first.dead
    second = Process(first)
    second.clock.now += LEASE + 0.1
    await it.run(second)
    assert not second.dead
    assert it.loaded.keys() == set(range(ITEMS)) == it.looped.keys()
    assert it.loaded.total() <= ITEMS + MAY_RUN_AGAIN
    assert it.looped.total() <= ITEMS + 1  # the one whose save was not carried out
    assert max(it.loaded.values()) <= 2
    # One save each, in order; that whose answer did not come before the death is told nowhere.
    assert it.progress == sorted(set(it.progress))
    assert (await second.jobs())["import"].state == "finished"


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_again_and_again_it_is_done_in_the_end(when: When) -> None:
    it, process, kills = Import(), Process(dies_at=1, when=when), 0
    while True:
        await it.run(process)
        if not process.dead:
            break
        kills += 1
        # Each one dies at its second save.
        process = Process(process, dies_at=3, when=when)
        process.clock.now += LEASE + 0.1
    assert it.loaded.keys() == set(range(ITEMS))
    assert it.loaded.total() <= ITEMS + kills * MAY_RUN_AGAIN
    assert kills >= ITEMS / 2


class Unsure(Process):
    """Loses the answers to one save, or carries it out late: after the next one."""

    def __init__(self, save: int, fault: Literal["lost answer", "late request"]) -> None:
        super().__init__()
        self.save = save
        self.fault = fault
        self.saves = 0
        self.late: list[Any] = []

    async def save_job(self, *args: Any, **options: Any) -> Any:
        self.saves += 1
        if self.saves != self.save:
            answer = await super().save_job(*args, **options)
            for request in self.late:
                assert not (await super().save_job(*request[0], **request[1])).granted
            self.late.clear()
            return answer
        if self.fault == "lost answer":
            await super().save_job(*args, **options)
        else:
            self.late.append((args, options))
        raise StoreTimeoutError("no answer came")


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("fault", ["lost answer", "late request"])
@pytest.mark.parametrize("save", range(1, ITEMS + 1))
async def test_a_save_without_an_answer_or_a_late_one_changes_nothing_that_is_seen(
    save: int, fault: Literal["lost answer", "late request"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gogoscope.scopes.saving.AGAIN_SECONDS", 0.001)
    it, store = Import(), Unsure(save, fault)
    await it.run(store, limit=1)
    assert it.loaded == it.looped == Counter(range(ITEMS))
    assert it.progress == sorted(set(it.progress))
    assert it.progress[-1] == ITEMS
    found = (await store.jobs())["import"]
    assert (found.state, found.done, found.total) == ("finished", ITEMS, ITEMS)
    assert not store.late


async def test_two_processes_do_one_job_one_at_a_time() -> None:
    one = Process()
    other = Process(one)
    it, holders = Import(), Counter[str]()

    async def work(store: Process, name: str) -> None:
        async with scope(persistence=store) as s:
            while True:
                left = 2
                async for row, result in s.resume("import", it_load(name), range(ITEMS)):
                    result.unwrap()
                    it.looped[row] += 1
                    left -= 1
                    if not left:
                        break
                else:
                    return

    def it_load(name: str) -> Any:
        async def load(row: int) -> None:
            holders[name] += 1
            assert holders.keys() <= {name} or not holders[{"one": "other", "other": "one"}[name]]
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                holders[name] -= 1

        return load

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, one, "one")
        tasks.start_soon(work, other, "other")
    assert it.looped.keys() == set(range(ITEMS))
    with pytest.raises(LockTimeoutError):
        async with (
            scope(persistence=one) as s,
            s.job("import"),
            scope(persistence=other) as t,
        ):
            async for _ in t.resume("import", it_load("other"), range(ITEMS), wait=0):
                pytest.fail("two have it")


@pytest.fixture(params=SHARED_STORES)
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_real_processes_killed_at_every_write_lose_nothing(
    shared_url: str, tmp_path: Path
) -> None:
    finished = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests/integration/jobs/forking.py"),
            shared_url,
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
