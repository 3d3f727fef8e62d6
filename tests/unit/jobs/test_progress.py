"""How far a job has come: what saves told, and how fast it gets on."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest

from gogoscope import JobProgress, scope
from gogoscope.events import JobSaved, log_events
from gogoscope.jobs.progress import WINDOW_SECONDS, Meter
from gogoscope.stores import MemoryStore
from gogoscope.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def test_whoever_comes_after_a_crash_knows_how_far_the_job_had_come() -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            async with s.job("import") as job:
                assert job.progress == JobProgress(0, None, None)
                await job.save("a", done=3, total=10)
                await job.save("b")
                assert (job.progress.done, job.progress.total) == (3, 10)
                await job.save("c", done=4)
                raise OSError("broken")
        found = (await store.jobs())["import"]
        assert (found.done, found.total) == (4, 10)
        async with s.job("import") as job:
            assert job.progress == JobProgress(4, 10, None)
        async with s.job("import", restart=True) as job:
            assert job.progress == JobProgress(0, None, None)


async def test_a_save_that_was_refused_is_no_progress() -> None:
    async with scope(persistence=MemoryStore()) as s, s.job("import") as job:
        await job.save(1, done=1, total=3)
        for done, error in ((-1, ValueError), (True, TypeError), (1.0, TypeError)):
            with pytest.raises(error, match="done must be"):
                await job.save(2, done=done)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="total must be"):
            await job.save(2, total=-1)
        with pytest.raises(TypeError):
            await job.save(object(), done=2)
        assert (job.state, job.progress.done) == (1, 1)


async def test_saves_at_the_same_time_land_in_the_order_of_their_calls() -> None:
    told: list[Any] = []
    called: list[int] = []
    store = MemoryStore()

    def watch(event: object) -> None:
        if isinstance(event, JobSaved):
            told.append(event.done)

    async def save(number: int) -> None:
        called.append(number)
        await job.save(number, done=number)

    async with scope(persistence=store, on_event=watch) as s, s.job("import") as job:
        for number in range(10):
            job.task(save, number)
    assert told == called
    assert sorted(told) == list(range(10))
    assert job.state == called[-1]
    record = await store.read_job("import")
    assert record is not None
    assert store.job_state("import", record.state) == called[-1]


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    async def work() -> None:
        meter = Meter(1000, 3000)
        assert meter.rate is None
        for second in range(1, 101):
            await anyio.sleep(1)
            meter.note(1000 + 10 * second, None)
        assert meter.rate == pytest.approx(10)
        for second in range(1, int(WINDOW_SECONDS) + 2):
            await anyio.sleep(1)
            meter.note(2000 + 20 * second, None)
        assert meter.rate == pytest.approx(20)
        assert len(meter._samples) <= WINDOW_SECONDS + 2
        progress = meter.progress()
        assert progress.seconds_left == pytest.approx((3000 - progress.done) / 20)
        meter.note(5, None)
        assert (meter.done, meter.rate) == (5, None)

    VirtualClock().run(work)


def test_the_rate_of_a_job_that_is_saved_seldom_is_that_between_its_saves() -> None:
    async def work() -> None:
        meter = Meter(None, None)
        for save in range(1, 4):
            await anyio.sleep(600)
            meter.note(60 * save, None)
            assert meter.rate == pytest.approx(0.1)

    VirtualClock().run(work)


@pytest.mark.parametrize(
    ("progress", "text", "bar"),
    [
        (JobProgress(), "0 done", "----------"),
        (JobProgress(1234, None, 5.25), "1,234 done, 5.2/s", "----------"),
        (JobProgress(0, 0), "0 of 0 (100 %)", "##########"),
        (JobProgress(999, 1000, 0.004), "999 of 1,000 (99 %), 0.004/s, 4 min left", "#########-"),
        (JobProgress(42_000, 100_000, 1204.4), "42,000 of 100,000 (42 %), 1,204/s, 48 s left", 4),
        (JobProgress(10, 10, 3.0), "10 of 10 (100 %), 3/s", "##########"),
        (JobProgress(12, 10), "12 of 10 (100 %)", "##########"),
        (JobProgress(0, 10**6, 10.0), "0 of 1,000,000 (0 %), 10/s, 28 h left", "----------"),
    ],
)
def test_it_is_a_line_and_a_bar(progress: JobProgress, text: str, bar: str | int) -> None:
    assert str(progress) == text
    assert progress.bar(10) == (bar if isinstance(bar, str) else "#" * bar + "-" * (10 - bar))


async def test_a_line_in_the_log_needs_no_code_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "gogoscope.events")
    unsubscribe = log_events()
    async with scope(persistence=MemoryStore()) as s, s.job("import") as job:
        await job.save(1, done=1, total=3)
    unsubscribe()
    assert re.search(r"JobSaved scope='.*' key='import' done=1 total=3 rate=", caplog.text)
