"""``s.schedule``: which ticks run, and what becomes of them, in virtual time."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from gogoscope import (
    CapabilityNotSupportedError,
    LeaseLostError,
    Persistence,
    Scope,
    ScopeClosedError,
    StoreConnectionError,
    Tick,
    cron,
    current_scope,
    interval,
    scope,
)
from gogoscope.events import (
    Event,
    ScheduleEvent,
    ScheduleStoreFailed,
    ScheduleStoreRecovered,
    TickEnded,
    TickFailed,
    TicksMissed,
    TickStarted,
)
from gogoscope.persistence import current_clock
from gogoscope.schedules import keeper
from gogoscope.stores import MemoryStore
from gogoscope.testing import UnpluggableStore, VirtualClock
from tests.support.backends import Backend
from tests.support.hostile_errors import HOSTILE, hostile

Run = Callable[[Callable[[], Awaitable[Any]]], Any]

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["asyncio", "trio"])
def run(virtual_clock: VirtualClock, request: pytest.FixtureRequest) -> Run:
    """Return what runs a program in virtual time."""
    backend: Backend = request.param
    return lambda program: virtual_clock.run(program, backend=backend)


async def until(time: float) -> None:
    """Sleep until the virtual clock shows a time."""
    await anyio.sleep(time - current_clock.wall())


async def to_next(period: float, offset: float = 0.5) -> float:
    """Sleep until a moment after a multiple of a period; return that multiple."""
    whole = (current_clock.wall() // period + 1) * period
    await until(whole + offset)
    return whole


class Runs:
    """What a schedule ran: the times of the ticks, and when."""

    def __init__(self, lasting: float = 0.0) -> None:
        self.ticks: list[Tick] = []
        self.began: list[float] = []
        self.ended = 0
        self.lasting = lasting

    async def __call__(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self.began.append(current_clock.wall())
        await anyio.sleep(self.lasting)
        self.ended += 1

    @property
    def at(self) -> list[float]:
        return [tick.at.timestamp() for tick in self.ticks]


def test_every_tick_runs_once_and_never_early(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        start = await to_next(60)
        async with scope(persistence=MemoryStore()) as s:
            s.schedule("sync", interval(60), runs)
            await until(start + 601)
            await s.stop()
        assert runs.at == [start + 60 * n for n in range(1, 11)]
        lateness = [began - at for began, at in zip(runs.began, runs.at, strict=True)]
        assert all(0 <= late < 0.35 for late in lateness)
        tokens = [tick.fencing_token for tick in runs.ticks]
        assert tokens == sorted(set(tokens))
        assert {(tick.schedule, tick.missed, tick.attempt) for tick in runs.ticks} == {
            ("sync", 0, 1)
        }

    run(program)


def test_a_tick_runs_in_one_of_several_processes(run: Run) -> None:
    each = [Runs() for _ in range(4)]

    async def program() -> None:
        start = await to_next(60)
        store = MemoryStore()
        async with AsyncExitStack() as processes:
            for runs in each:
                process = await processes.enter_async_context(scope(persistence=store))
                process.schedule("sync", interval(60), runs)
                processes.callback(process.stopping.set)
            await until(start + 601)
        found = sorted(at for runs in each for at in runs.at)
        assert found == [start + 60 * n for n in range(1, 11)]

    run(program)


def test_a_process_without_the_schedule_never_touches_it(run: Run) -> None:
    mine, others = Runs(), Runs()

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store) as one:
            one.schedule("mine", interval(60), mine)
            await until(start + 61)
            await one.stop()
        before = (await store.schedules())["mine"]
        async with scope(persistence=store) as another:
            another.schedule("another", interval(60), others)
            await until(start + 301)
            await another.stop()
        assert (await store.schedules())["mine"] == before
        assert len(mine.ticks) == 1
        assert others.at == [start + 60 * n for n in range(2, 6)]

    run(program)


def test_a_tick_is_told_in_the_time_zone_of_its_schedule(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s:
            when = cron("0 3 * * *", tz="America/New_York")
            next_ms = when.next_ms(round(current_clock.wall() * 1000))
            assert next_ms is not None
            await until(next_ms / 1000 - 60)
            s.schedule("nightly", when, runs)
            await anyio.sleep(61)
            await s.stop()
        (tick,) = runs.ticks
        assert (tick.at.hour, str(tick.at.tzinfo)) == (3, "America/New_York")

    run(program)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zone", "month", "day", "hours"),
    [("Europe/Berlin", 3, 29, 23), ("America/New_York", 11, 1, 25), ("Europe/Berlin", 10, 25, 25)],
)
def test_a_day_on_which_clocks_are_changed_has_one_tick(
    run: Run, zone: str, month: int, day: int, hours: int
) -> None:
    runs = Runs()
    when = cron("30 2 * * *", tz=zone)
    other = cron("30 1 * * *", tz=zone)

    async def program() -> None:
        midnight = datetime(2030, month, 1, tzinfo=when.zone)
        while midnight.month == month and (day_length(midnight) != hours):
            midnight += timedelta(days=1)
        await until(midnight.timestamp() + 1200)
        async with scope(persistence=MemoryStore()) as s:
            s.schedule("half past two", when, runs)
            s.schedule("half past one", other, runs)
            await until(midnight.timestamp() + 4 * 3600)
            await s.stop()
        assert sorted(tick.schedule for tick in runs.ticks) == ["half past one", "half past two"]
        assert all(tick.at.date() == midnight.date() for tick in runs.ticks)

    run(program)


def day_length(midnight: datetime) -> float:
    after = (midnight + timedelta(days=1)).astimezone(UTC)
    return (after - midnight.astimezone(UTC)).total_seconds() / 3600


async def long_pause(store: MemoryStore, missed: Any, runs: Runs, **options: Any) -> float:
    """Have a schedule that no process keeps for ten minutes; return when the pause began."""
    async with scope(persistence=store) as s:
        s.schedule("sync", interval(60), runs, missed=missed, **options)
        start = await to_next(60)
        await s.stop()
    await until(start + 601)
    async with scope(persistence=store) as s:
        s.schedule("sync", interval(60), runs, missed=missed, **options)
        await until(start + 661)
        await s.stop()
    return start


def test_missed_once_runs_the_newest_and_tells_how_many_came_before(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        start = await long_pause(MemoryStore(), "once", runs)
        assert runs.at[-2:] == [start + 600, start + 660]
        assert [tick.missed for tick in runs.ticks[-2:]] == [9, 0]

    run(program)


def test_missed_all_runs_each(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        start = await long_pause(MemoryStore(), "all", runs)
        assert runs.at[-11:] == [start + 60 * n for n in range(1, 12)]
        assert not any(tick.missed for tick in runs.ticks)

    run(program)


def test_missed_all_runs_the_newest_of_very_many(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        start = await long_pause(MemoryStore(), "all", runs, max_missed=3)
        assert runs.at[-4:] == [start + 60 * n for n in (8, 9, 10, 11)]
        assert [tick.missed for tick in runs.ticks[-4:]] == [7, 0, 0, 0]

    run(program)


def test_missed_skip_runs_none_that_is_old(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        start = await long_pause(MemoryStore(), "skip", runs, lease=0.5)
        assert runs.at[-1] == start + 660
        assert start + 600 not in runs.at
        assert runs.ticks[-1].missed == 10

    run(program)


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("once", [1, 3, 5, 8]), ("all", [1, 2, 3, 4]), ("skip", [1, 4, 7, 10])],
)
def test_a_job_that_takes_longer_than_its_interval_never_overlaps(
    run: Run, missed: Any, expected: list[int]
) -> None:
    runs = Runs(lasting=2.4)

    async def program() -> None:
        start = await to_next(1, 0.01)
        async with scope(persistence=MemoryStore()) as s:
            s.schedule("slow", interval(1), runs, missed=missed)
            while len(runs.ticks) < 4:
                await anyio.sleep(0.1)
            s.stopping.set()
        assert [round(at - start) for at in runs.at] == expected
        pairs = zip(runs.began, runs.began[1:], strict=False)
        assert all(later - earlier > 2.3 for earlier, later in pairs)

    run(program)


def test_an_error_is_told_and_the_schedule_goes_on(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Exception] = []

    async def fail(tick: Tick) -> None:
        raise OSError("broken")

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store) as s:
            s.schedule("told", interval(60), fail, on_error=told.append)
            s.schedule("logged", interval(60), fail)
            await until(start + 181)
            found = await store.schedules()
            await s.stop()
        assert [str(error) for error in told] == ["broken"] * 3
        logged = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(logged) == 3
        assert all("schedule 'logged' failed" in record.getMessage() for record in logged)
        assert all(record.exc_info for record in logged)
        assert (found["told"].outcome, found["told"].error) == ("failed", "OSError('broken')")

    run(program)


@pytest.mark.parametrize("hostility", HOSTILE)
def test_a_hostile_error_is_told_as_it_is(run: Run, hostility: str) -> None:
    errors: list[Exception] = []
    told: list[Exception] = []

    async def fail(tick: Tick) -> None:
        errors.append(hostile(hostility)("no"))
        raise errors[-1]

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store) as s:
            s.schedule("told", interval(60), fail, on_error=told.append)
            await until(start + 121)
            found = await store.schedules()
            await s.stop()
        assert list(map(id, told)) == list(map(id, errors))
        assert len(told) == 2
        assert found["told"].outcome == "failed"

    run(program)


def test_an_observer_that_fails_ends_nothing(run: Run) -> None:
    runs: list[Tick] = []

    async def fail(tick: Tick) -> None:
        runs.append(tick)
        raise OSError("broken")

    def observe(error: Exception) -> None:
        raise RuntimeError("the observer is broken, too")

    async def program() -> None:
        start = await to_next(60)
        async with scope(persistence=MemoryStore()) as s:
            s.schedule("s", interval(60), fail, on_error=observe)
            await until(start + 121)
            await s.stop()
        assert len(runs) == 2

    run(program)


def test_tasks_of_a_tick_end_with_it_and_have_the_nets_of_the_scope(run: Run) -> None:
    tried: list[float] = []

    async def fail_twice(tick: Tick) -> None:
        tried.append(current_clock.wall())
        if len(tried) < 3:
            raise OSError("broken")
        inner = current_scope()
        assert inner is not None
        inner.task(anyio.sleep, 5)

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store, retry=3) as s:
            s.schedule("s", interval(60), fail_twice)
            await until(start + 119)
            found = (await store.schedules())["s"]
            await s.stop()
        assert found.outcome == "done"
        assert found.ended_at is not None
        assert found.ended_at - tried[-1] > 4.9
        assert len(tried) == 3

    run(program)


def test_a_stopping_scope_starts_no_tick_and_lets_the_one_in_progress_end(run: Run) -> None:
    runs = Runs(lasting=90)

    async def program() -> None:
        start = await to_next(60)
        async with scope(persistence=MemoryStore()) as s:
            task = s.schedule("s", interval(60), runs, missed="all")
            await until(start + 70)
            s.stopping.set()
            assert (await task).value is None
        assert (len(runs.ticks), runs.ended) == (1, 1)

    run(program)


def test_a_tick_that_is_cancelled_is_started_again_at_once_by_another_process(run: Run) -> None:
    first, second = Runs(lasting=90), Runs()

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store) as one:
            one.schedule("s", interval(60), first)
            await until(start + 61)
            one.cancel("enough")
        async with scope(persistence=store) as two:
            two.schedule("s", interval(60), second)
            await until(start + 62)
            await two.stop()
        assert [tick.attempt for tick in first.ticks + second.ticks] == [1, 2]
        assert first.ended == 0
        assert first.at == second.at

    run(program)


def test_a_tick_whose_own_scope_is_cancelled_is_started_again_as_often_as_it_may(run: Run) -> None:
    ticks: list[tuple[float, int]] = []
    told: list[str] = []

    async def gives_up(tick: Tick) -> None:
        ticks.append((tick.at.timestamp(), tick.attempt))
        inside = current_scope()
        assert inside is not None
        inside.cancel("not now")
        await anyio.sleep(1)

    def tell(event: Event) -> None:
        if type(event).__name__ in ("TickStopped", "TickEnded"):
            told.append(type(event).__name__)

    async def program() -> None:
        start = await to_next(60)
        async with scope(persistence=MemoryStore(), on_event=tell) as s:
            s.schedule("s", interval(60), gives_up)
            await until(start + 121)
            await s.stop()
        assert ticks == [(start + 60 * n, attempt) for n in (1, 2) for attempt in (1, 2)]

    run(program)
    assert told == ["TickStopped"] * 4


class CutOff(MemoryStore):
    """A store that takes nothing more of a process, from some time on."""

    cut_off = False

    async def claim_tick(self, *args: Any, **options: Any) -> Any:
        if self.cut_off:
            raise StoreConnectionError("cut off")
        return await super().claim_tick(*args, **options)

    async def renew_tick(self, *args: Any, **options: Any) -> Any:
        if self.cut_off:
            raise StoreConnectionError("cut off")
        return await super().renew_tick(*args, **options)

    async def end_tick(self, *args: Any, **options: Any) -> Any:
        if self.cut_off:
            raise StoreConnectionError("cut off")
        return await super().end_tick(*args, **options)


def test_a_lost_lease_cancels_the_tick_and_another_process_starts_it_again(run: Run) -> None:
    first, second = Runs(lasting=900), Runs()
    told: list[Exception] = []

    async def program() -> None:
        cut_off = CutOff()
        other = MemoryStore()
        other._records = cut_off._records
        start = await to_next(600)
        async with scope(persistence=cut_off) as one, scope(persistence=other) as two:
            one.schedule("s", interval(600), first, lease=30, on_error=told.append)
            await until(start + 605)
            assert first.ticks
            cut_off.cut_off = True
            two.schedule("s", interval(600), second, lease=30)
            await until(start + 700)
            one.stopping.set()
            two.stopping.set()
        assert first.ended == 0
        assert [type(error) for error in told] == [LeaseLostError]
        assert [(tick.at, tick.attempt) for tick in second.ticks] == [(first.ticks[0].at, 2)]
        assert second.ticks[0].fencing_token > first.ticks[0].fencing_token

    run(program)


@pytest.mark.parametrize(("retries", "starts"), [(0, 1), (1, 2), (2, 3)])
def test_a_tick_whose_process_dies_is_started_again_so_often(
    run: Run, retries: int, starts: int
) -> None:
    ran: list[tuple[float, int]] = []

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(600)

        async def die(tick: Tick) -> None:
            ran.append((tick.at.timestamp(), tick.attempt))
            if tick.at.timestamp() == start + 600:
                await anyio.sleep(300)

        for _ in range(4):
            dead = MemoryStore()
            dead._records = store._records
            dead.end_tick = dead.renew_tick = cut_off  # type: ignore[method-assign]
            with anyio.move_on_after(250 if _ == 0 else 30, shield=False):
                async with scope(persistence=dead) as s:
                    s.schedule("s", interval(600), die, lease=10, retries=retries)
                    await anyio.sleep(700)
            await anyio.sleep(20)
            if _ == 0:
                await until(start + 620)
        async with scope(persistence=store) as s:
            s.schedule("s", interval(600), die, lease=10, retries=retries)
            await until(start + 1201)
            await s.stop()
        again = [attempt for at, attempt in ran if at == start + 600]
        assert again == list(range(1, starts + 1))[: len(again)]
        assert ran[-1] == (start + 1200, 1)

    async def cut_off(*args: Any, **options: Any) -> Any:
        raise StoreConnectionError("cut off")

    run(program)


def test_nothing_is_lost_while_the_store_is_down(run: Run) -> None:
    runs = Runs()
    events: list[Event] = []

    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        start = await to_next(60)
        async with scope(persistence=store, on_event=events.append) as s:
            s.schedule("s", interval(60), runs, missed="all")
            await until(start + 61)
            store.unplug()
            await until(start + 301)
            store.plug_in()
            await until(start + 361)
            await s.stop()
        assert runs.at == [start + 60 * n for n in range(1, 7)]
        kinds = [type(event) for event in events if isinstance(event, ScheduleEvent)]
        assert kinds.count(ScheduleStoreFailed) == kinds.count(ScheduleStoreRecovered) == 1

    run(program)


def test_a_tick_whose_end_the_store_did_not_take_is_not_started_again(run: Run) -> None:
    runs = Runs(lasting=5)

    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        start = await to_next(600)
        async with scope(persistence=store) as s:
            s.schedule("s", interval(600), runs, lease=60)
            await until(start + 1)
            assert await store.trigger_schedule("s")
            while not runs.ticks:
                await anyio.sleep(0.5)
            store.unplug()
            await anyio.sleep(30)
            assert runs.ended == 1
            store.plug_in()
            await until(start + 300)
            found = (await store.schedules())["s"]
            await s.stop()
        assert found.outcome == "done"
        assert len(runs.ticks) == 1

    run(program)


def test_a_person_pauses_continues_and_triggers_a_schedule(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store) as s:
            s.schedule("s", interval(60), runs, missed="all")
            await until(start + 61)
            assert await store.pause_schedule("s")
            await until(start + 181)
            assert (await store.schedules())["s"].state == "paused"
            assert runs.at == [start + 60]
            assert await store.trigger_schedule("s")
            await until(start + 182 + keeper.LOOK_SECONDS)
            assert [tick.triggered for tick in runs.ticks] == [False, True]
            assert await store.continue_schedule("s")
            await until(start + 361)
            await s.stop()
        assert runs.at[2:] == [start + 300, start + 360]

    run(program)


@pytest.mark.parametrize("processes", [1, 3])
def test_what_a_person_asks_for_is_done_at_once_where_the_store_tells_of_changes(
    run: Run, processes: int
) -> None:
    runs = Runs()

    async def program() -> None:
        shared = MemoryStore()
        start = await to_next(3600)
        async with AsyncExitStack() as fleet:
            for _ in range(processes):
                s = await fleet.enter_async_context(scope(persistence=shared))
                s.schedule("s", interval(1), runs)
                fleet.callback(s.stopping.set)
            await until(start + 3)
            assert await shared.pause_schedule("s")
            await until(start + 100)
            before = len(runs.ticks)
            assert await shared.trigger_schedule("s")
            await anyio.sleep(0.5)
            assert [tick.triggered for tick in runs.ticks[before:]] == [True]
            assert await shared.continue_schedule("s")
            await until(start + 103.5)
        assert runs.at[-3:] == [start + 101, start + 102, start + 103]

    run(program)


def test_a_run_that_a_deployment_cut_short_is_begun_again_at_once_elsewhere(run: Run) -> None:
    runs = Runs(lasting=100)

    async def program() -> None:
        shared = MemoryStore()
        start = await to_next(3600)
        async with scope(persistence=shared) as old:
            old.schedule("s", interval(3600), runs)
            await until(start + 3601)
            async with scope(persistence=shared) as new:
                new.schedule("s", interval(3600), runs)
                await until(start + 3610)
                old.cancel()
                await until(start + 3611)
                assert [tick.attempt for tick in runs.ticks] == [1, 2]
                await new.stop()

    run(program)


def test_a_changed_definition_is_taken_over(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(3600)
        async with scope(persistence=store) as s:
            s.schedule("s", interval(3600), runs)
            await until(start + 3601)
            await s.stop()
        await until(start + 3 * 3600 + 1)
        async with scope(persistence=store) as s:
            s.schedule("s", cron("*/10 * * * *"), runs, missed="all")
            await until(start + 3 * 3600 + 1201)
            found = (await store.schedules())["s"]
            await s.stop()
        assert runs.at == [start + 3600, start + 3 * 3600 + 600, start + 3 * 3600 + 1200]
        assert found.definition == "cron */10 * * * * in UTC"
        assert found.next == start + 3 * 3600 + 1800

    run(program)


def test_a_schedule_that_is_forgotten_begins_anew(run: Run) -> None:
    runs = Runs()

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store) as s:
            s.schedule("s", interval(60), runs)
            await until(start + 61)
            assert await store.forget_schedule("s")
            await until(start + 181)
            await s.stop()
        assert runs.at in ([start + 60, start + 120, start + 180], [start + 60, start + 180])

    run(program)


def test_no_tick_runs_twice_after_a_clock_was_ahead_and_the_log_tells_how_to_go_on(
    run: Run, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs()

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store) as s:
            s.schedule("nightly", interval(60), runs)
            await until(start + 61)
            virtual_clock._start += 86_400  # as if somebody set it
            await anyio.sleep(61)
            virtual_clock._start -= 86_400
            assert len(runs.at) >= 2
            early = len(runs.at)
            await anyio.sleep(600)
            assert len(runs.at) == early
            [told] = [one.getMessage() for one in caplog.records if "was ahead" in one.message]
            assert "store.forget_schedule('nightly')" in told
            assert await store.forget_schedule("nightly")
            await anyio.sleep(300)
            assert len(runs.at) > early
            assert len(set(runs.at)) == len(runs.at)
            await s.stop()

    run(program)


def test_events_tell_of_ticks(run: Run) -> None:
    events: list[Event] = []

    async def sometimes(tick: Tick) -> None:
        if tick.missed:
            raise OSError("broken")

    async def program() -> None:
        store = MemoryStore()
        start = await to_next(60)
        async with scope(persistence=store, on_event=events.append) as s:
            s.schedule("s", interval(60), sometimes, on_error=lambda error: None)
            await until(start + 61)
            await s.stop()
        await until(start + 181)
        async with scope(persistence=store, on_event=events.append) as s:
            s.schedule("s", interval(60), sometimes, on_error=lambda error: None)
            await until(start + 190)
            await s.stop()
        told = [event for event in events if isinstance(event, ScheduleEvent)]
        assert [type(event) for event in told] == [
            *(TickStarted, TickEnded),
            *(TicksMissed, TickStarted, TickFailed),
        ]
        missed = told[2]
        assert isinstance(missed, TicksMissed)
        assert (missed.schedule, missed.count) == ("s", 1)
        assert isinstance(told[3], TickStarted)
        assert told[3].at.timestamp() == start + 180

    run(program)


def test_the_tree_shows_what_a_schedule_waits_for(run: Run) -> None:
    drawn: list[str] = []
    paused: list[str] = []

    async def program() -> None:
        store = MemoryStore()
        async with scope(name="main", persistence=store) as s:
            s.schedule("nightly", cron("0 3 * * *", tz="Europe/Berlin"), Runs())
            await anyio.sleep(1)
            drawn.append(s.tree())
            await store.pause_schedule("nightly")
            await anyio.sleep(2 * keeper.LOOK_SECONDS)
            paused.append(s.tree())
            await s.stop()

    run(program)
    assert "task schedule nightly [running" in drawn[0]
    assert "waits for the tick at " in drawn[0]
    assert "waits for somebody who continues it: it is paused" in paused[0]


def test_a_tick_is_frozen_and_can_be_pickled() -> None:
    tick = Tick("s", BEGIN, 0, 7)
    assert pickle.loads(pickle.dumps(tick)) == tick
    with pytest.raises(AttributeError):
        tick.missed = 1  # type: ignore[misc]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": ""}, ValueError, "name must not be empty"),
    ({"name": 5}, TypeError, "name must be a str, got 5"),
    ({"when": 60}, TypeError, r"when must be interval\(seconds\) or cron"),
    ({"when": "* * * * *"}, TypeError, r"when must be interval\(seconds\) or cron"),
    ({"fn": 5}, TypeError, r"s.schedule\(name, when"),
    ({"missed": "never"}, ValueError, "missed must be one of 'once', 'skip', 'all', got 'never'"),
    ({"max_missed": 0}, ValueError, "max_missed must be 1 or more, got 0"),
    ({"lease": 0}, ValueError, "lease must be more than 0 seconds"),
    ({"lease": 100_000}, ValueError, "lease must be at most 3600"),
    ({"retries": -1}, ValueError, "retries must be 0 or more, got -1"),
    ({"retries": True}, TypeError, "retries must be an int, got True"),
    ({"on_error": 5}, TypeError, "on_error must be a function"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("changed", "kind", "message"), BAD)
async def test_bad_arguments_are_refused_at_once(
    changed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    options: dict[str, Any] = {"name": "s", "when": interval(60), "fn": Runs(), **changed}
    async with scope() as s:
        with pytest.raises(kind, match=message):
            s.schedule(options.pop("name"), options.pop("when"), options.pop("fn"), **options)


@pytest.mark.anyio
async def test_a_schedule_needs_an_open_scope_and_a_store_that_keeps_schedules() -> None:
    closed: Scope = scope()
    with pytest.raises(ScopeClosedError):
        closed.schedule("s", interval(60), Runs())
    async with scope(persistence=Persistence(locks=MemoryStore())) as s:
        error = (await s.schedule("s", interval(60), Runs())).error
        assert isinstance(error, CapabilityNotSupportedError)
