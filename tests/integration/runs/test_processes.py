"""One run for many callers in many processes, of which some die, or wake up too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gogoscope import open_persistence, scope
from tests.integration.runs.worker import KEY
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP and no SIGKILL"),
]

ROOT = Path(__file__).resolve().parents[3]
LEASE = 1.5
"""Of the process that dies; that of the others is so long that none of them can lose it."""
LONG_LEASE = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=SHARED_STORES)
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


class Fleet:
    """Processes with callers of one run."""

    def __init__(self, url: str, folder: Path, at_the_end: ExitStack) -> None:
        self.url = url
        self.folder = folder
        self._at_the_end = at_the_end

    def start(
        self,
        callers: int,
        lease: float = LONG_LEASE,
        after_crash: str = "run",
        then: str = "return",
    ) -> subprocess.Popen[str]:
        worker = ROOT / "tests/integration/runs/worker.py"
        options = [str(callers), str(lease), after_crash, then, str(self.folder)]
        process = subprocess.Popen(
            [sys.executable, str(worker), self.url, *options],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._at_the_end.callback(process.communicate)
        self._at_the_end.callback(process.kill)
        return process

    def runs(self) -> list[tuple[int, float]]:
        """Return which processes have run, and when."""
        ran = self.folder / "ran"
        lines = ran.read_text().splitlines() if ran.exists() else []
        return [(int(line.split()[0]), float(line.split()[1])) for line in lines if " " in line]

    async def first_run(self) -> None:
        """Wait until somebody runs."""
        with anyio.fail_after(60):
            while not self.runs():
                await anyio.sleep(0.02)

    def go_on(self) -> None:
        (self.folder / "go on").touch()


async def answers(process: subprocess.Popen[str]) -> tuple[list[Any], list[str | None]]:
    """Wait for a process; return the results of its callers, and their errors."""
    output, _ = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=90))
    assert process.returncode == 0
    values, errors = json.loads(output)
    return values, errors


@pytest.fixture
def fleet(shared_url: str, tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as at_the_end:
        yield Fleet(shared_url, tmp_path, at_the_end)


async def test_forty_callers_in_four_processes_have_one_run_and_equal_results(
    fleet: Fleet,
) -> None:
    processes = [fleet.start(10) for _ in range(4)]
    values, errors = [], []
    for process in processes:
        got, failed = await answers(process)
        values += got
        errors += failed
    ((runner, _),) = fleet.runs()
    assert values == [{"charged by": runner}] * 40
    assert errors == [None] * 40


@pytest.mark.slow
async def test_after_the_death_of_the_first_process_there_is_one_more_run_when_its_lease_is_over(
    fleet: Fleet,
) -> None:
    first = fleet.start(10, LEASE, then="wait")
    await fleet.first_run()
    others = [fleet.start(10) for _ in range(3)]
    first.kill()
    first.wait()
    async with open_persistence(fleet.url) as store:
        runs: Any = store
        record = await runs.read_run(KEY)
        values = [value for process in others for value in (await answers(process))[0]]
        (dead, _), (runner, at) = fleet.runs()
        assert dead == first.pid
        if record.lease.metadata["pid"] == str(first.pid):
            assert at * 1000 >= record.lease.lease_until_ms - 5
        assert values == [{"charged by": runner}] * 30
        again = await runs.read_run(KEY)
        assert again.lease.fencing_token > record.lease.fencing_token


@pytest.mark.slow
async def test_with_ask_a_run_whose_process_died_is_not_repeated(fleet: Fleet) -> None:
    first = fleet.start(1, LEASE, "ask", "wait")
    await fleet.first_run()
    first.kill()
    first.wait()
    _, errors = await answers(fleet.start(10, after_crash="ask"))
    assert errors == ["OutcomeUnknownError"] * 10
    async with open_persistence(fleet.url) as store:
        runs: Any = store
        assert await runs.resolve_run(KEY, result="found in the books")
    values, _ = await answers(fleet.start(10, after_crash="ask"))
    assert values == ["found in the books"] * 10
    assert [pid for pid, _ in fleet.runs()] == [first.pid]


async def wake_up_late(fleet: Fleet, then: str) -> str:
    """Let a process wake up after another one has run; return the error of its own run."""
    zombie = fleet.start(10, LEASE, then=then)
    await fleet.first_run()
    zombie.send_signal(signal.SIGSTOP)
    values, _ = await answers(fleet.start(10))
    (_, _), (runner, _) = fleet.runs()
    assert values == [{"charged by": runner}] * 10
    fleet.go_on()
    zombie.send_signal(signal.SIGCONT)
    values, errors = await answers(zombie)
    assert [value for value in values if value is not None] == [{"charged by": runner}] * 9
    assert len(fleet.runs()) == 2
    async with scope(persistence=fleet.url) as s, s.claim(KEY, keep=600) as run:
        assert run.done
        assert run.result == {"charged by": runner}
    (error,) = filter(None, errors)
    return error


@pytest.mark.slow
async def test_a_process_that_wakes_up_after_its_lease_changes_nothing_and_returns_nothing(
    fleet: Fleet,
) -> None:
    assert await wake_up_late(fleet, "wait") == "LeaseLostError"


@pytest.mark.slow
async def test_a_process_that_wakes_up_after_its_lease_and_fails_changes_nothing(
    tmp_path: Path,
) -> None:
    with ExitStack() as at_the_end:
        fleet = Fleet(f"sqlite:///{tmp_path / 'store.db'}", tmp_path, at_the_end)
        # What comes first is a matter of chance: its own error, or that its lease is lost.
        assert await wake_up_late(fleet, "wait and raise") in ("ValueError", "LeaseLostError")
