"""The task of a schedule in one process: it waits for ticks, and runs those that it gets.

All processes that have the schedule wait for the same ticks. The one that ran the last tick claims
the next one at once when it is due, by a write that no other has to precede. The others look a
little later whether it has begun. Once they have seen that it does, they look only after some of
the ticks if these are frequent, so that a tick costs few requests with many processes, too. Whoever
finds that a tick has not begun claims it, and is the first from then on. Every process looks now
and then between the ticks as well, for what a person asks for; a store that tells of changes lets
it look at once.

A tick is due by the clock of the store, as this process knows it. It is claimed by its own time, so
it does not matter whether the processes agree on that clock.

While the store fails, nothing is known and nothing starts. When it answers, what was missed
meanwhile is found as after any other pause.

Mutable state: ``_record`` is the schedule as the last answer showed it, ``None`` before the first;
``_fresh`` tells that nobody has slept since. ``_first`` tells that this process ran the last tick,
as far as it knows, and ``_follows`` that it has seen another one do so. ``_look_at`` is when to
look at the latest, and ``_dead_at`` when the run of another may be dead, both on the clock of
``monotonic()``. ``_doubtful`` is the nonce of a claim whose answer never came. ``_failures`` counts
the failures of the store since its last answer. ``_called`` is set when the store tells of
something, or the scope is stopping. ``_waits_for`` is the next tick, for ``s.tree()``.
``_ahead`` tells that ticks were run long before their time, so that nothing starts until then.
"""

from __future__ import annotations

import math
from typing import Generic

import anyio
from attrs import evolve

from gogoscope._core.background import Home
from gogoscope._core.clock import monotonic
from gogoscope._core.interrupts import uninterrupted
from gogoscope._core.jitter import jittered, uniform
from gogoscope._core.stopping import Stopping
from gogoscope.events import (
    ScheduleStoreFailed,
    ScheduleStoreRecovered,
    TickEnded,
    TickFailed,
    TicksMissed,
    TickStarted,
    TickStopped,
    log_error,
    log_warning,
    notify,
)
from gogoscope.exceptions import ConfigurationError, GogoscopeError, PersistenceError
from gogoscope.persistence.asking import ask
from gogoscope.persistence.lock_claims import claim_handle, new_claim
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_watching import Watched
from gogoscope.persistence.schedule_records import ScheduleRecord, Wanted
from gogoscope.persistence.watching import watch
from gogoscope.schedules.block import OpenTick, T, TickBlock
from gogoscope.schedules.claims import TickLeases, schedules_of
from gogoscope.schedules.due import find_wanted
from gogoscope.schedules.options import ScheduleOptions
from gogoscope.schedules.tick import Tick
from gogoscope.schedules.when import moment

LOOK_SECONDS = 60.0
"""How long a process goes without a look at the schedule, at most."""
FIRST_LOOK_SECONDS = 20.0
"""How long the one goes that ran the last tick: it sees first what a person asks for."""
LATER_SECONDS = (0.1, 0.3)
"""How much later than the first process the others look whether a tick has begun."""
LOOKS = 0.4
"""After which part of the ticks each of the others looks, if they come in quick succession."""
FAR_AHEAD_MS = 3_600_000
"""A tick that was run so long before its time was run by a clock that was wrong."""
REFUSED_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


class Keeper(Generic[T]):
    """Runs the ticks of a schedule that this process gets, until its scope is stopping.

    :param home: the scope
    :param open_tick: returns what runs in the block of a run
    :param stopping: after it is set, no run begins
    :param options: what is asked for
    """

    def __init__(
        self, home: Home, open_tick: OpenTick[T], stopping: Stopping, options: ScheduleOptions
    ) -> None:
        self.name = f"schedule {options.name}"
        self._home = home
        self._open_tick = open_tick
        self._stopping = stopping
        self._options = options
        self._record: ScheduleRecord | None = None
        self._fresh = False
        self._first = False
        self._follows = False
        self._look_at = 0.0
        self._dead_at = math.inf
        self._watched = Watched()
        self._doubtful: str | None = None
        self._failures = 0
        self._waits_for = "its store"
        self._ahead = False

    @uninterrupted
    async def run(self) -> None:
        """Run ticks until the scope is stopping.

        :raises CapabilityNotSupportedError: if the store keeps no schedules
        :raises ConfigurationError: if the store cannot be used as it is configured
        """
        self._provider = schedules_of(self._home)
        self._called = anyio.Event()
        stop = watch(self._provider, "schedule", self._options.name, self._call)
        try:
            await self._go_on_until_stopping()
        finally:
            stop()

    async def _go_on_until_stopping(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._go_on()
            except ConfigurationError:
                raise
            except GogoscopeError as error:
                self._note_failure(error)
                pause = FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10)
                self._fresh = False
                await self._sleep(jittered(min(pause, LONGEST_PAUSE_SECONDS)))

    async def _go_on(self) -> None:
        """Do what there is to do next: run, look, or wait."""
        if self._doubtful is not None:
            await ask(self._provider.end_tick, self._options.name, self._doubtful, "unbegun")
            self._doubtful = None
        if self._record is None:
            await self._open()
            return
        now_ms = self._provider.schedule_now_ms()
        self._note_wrong_clock(self._record, now_ms)
        wanted = await find_wanted(self._options, self._record, now_ms)
        runs = self._record.state == "running"
        if wanted is None or (runs and monotonic() < self._dead_at):
            await self._wait(self._record, now_ms)
        elif self._fresh or (self._first and not runs):
            await self._claim(self._record, wanted)
        else:
            await self._look()

    async def _open(self) -> None:
        when, now_ms = self._options.when, self._provider.schedule_now_ms()
        definition, next_ms = when.describe(), when.next_ms(now_ms)
        self._note(await ask(self._provider.open_schedule, self._options.name, definition, next_ms))

    async def _look(self) -> None:
        self._note(await ask(self._provider.read_schedule, self._options.name))

    def _note(self, record: ScheduleRecord | None, dead_in_ms: int | None = None) -> None:
        """Note what an answer of the store has shown.

        :param dead_in_ms: what a refusal says of the run of another, 0 if it does not know
        """
        before, self._record = self._record, record
        if before is None:
            self._first = record is not None and record.state == "new"
        elif record is not None and record.after_ms > before.after_ms:
            self._follows = True
        self._fresh = True
        longest = FIRST_LOOK_SECONDS if self._first else LOOK_SECONDS
        self._look_at = monotonic() + jittered(longest)
        if self._failures:
            self._failures = 0
            if self._home.observed:
                self._home.emit(ScheduleStoreRecovered(self._home.name, self._options.name))
        if record is None or record.state != "running":
            self._dead_at = math.inf
            return
        self._watched.look(record.lease)
        left_ms = self._provider.tick_left_ms(record.lease) if dead_in_ms is None else dead_in_ms
        by_clock = math.inf if dead_in_ms == 0 else monotonic() + left_ms / 1000
        self._dead_at = min(by_clock, self._watched.dead_at())

    async def _wait(self, record: ScheduleRecord, now_ms: int) -> None:
        """Sleep until there may be something to do, and look unless this process is the first."""
        pause = self._look_at - monotonic()
        later = 0.0 if self._first else uniform(*LATER_SECONDS)
        dead_in = self._dead_at - monotonic()
        if dead_in > 0:
            pause = min(pause, dead_in + uniform(*LATER_SECONDS))
        if record.paused_ms is None:
            pause = min(pause, self._seconds_to_tick(record, now_ms, pause) + later)
        self._waits_for = self._describe_wait(record, now_ms)
        told = await self._is_told_within(pause)
        self._fresh = False
        if told and not self._first:
            await self._sleep(uniform(*LATER_SECONDS))
        if self._stopping.is_set():
            return
        if told or not self._first or monotonic() >= self._look_at:
            await self._look()

    def _seconds_to_tick(self, record: ScheduleRecord, now_ms: int, most: float) -> float:
        """Return how long it is to the next tick after which this process looks or claims.

        :param most: beyond so many seconds it does not matter
        """
        when = self._options.when
        tick_ms = when.next_ms(max(now_ms, record.after_ms))
        while tick_ms is not None and (tick_ms - now_ms) / 1000 < most:
            next_ms = when.next_ms(tick_ms)
            rare = next_ms is None or (next_ms - now_ms) / 1000 >= most
            if self._first or not self._follows or rare or uniform(0.0, 1.0) < LOOKS:
                return (tick_ms - now_ms) / 1000
            tick_ms = next_ms
        return math.inf

    def _describe_wait(self, record: ScheduleRecord, now_ms: int) -> str:
        when = self._options.when
        if record.paused_ms is not None:
            return "somebody who continues it: it is paused"
        next_ms = when.next_ms(max(now_ms, record.after_ms))
        if next_ms is None:
            return "nothing: its ticks are over"
        return f"the tick at {moment(next_ms, when.zone)}"

    async def _is_told_within(self, seconds: float) -> bool:
        """Sleep, but not longer than until the scope is stopping, or the store tells of something.

        :returns: whether it does
        """
        with anyio.move_on_after(max(0.0, seconds)), self._stopping.telling(self._call):
            if not self._stopping.is_set():
                await self._called.wait()
        told = self._called.is_set()
        if told:
            self._called = anyio.Event()
        return told

    def _call(self) -> None:
        self._called.set()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until the scope is stopping."""
        with anyio.move_on_after(max(0.0, seconds)):
            await self._stopping.wait()

    async def _claim(self, record: ScheduleRecord, wanted: Wanted) -> None:
        """Try to begin a run, and run it if it is granted."""
        options = self._options
        leases = TickLeases(self._provider, wanted)
        claim = new_claim(options.lease, metadata={"scope": self._home.name})
        seen = self._watched.dead() if record.state == "running" else None
        try:
            answer = await claim_handle(leases, options.name, claim, options.lease, seen=seen)
        except PersistenceError:
            self._doubtful = claim.nonce
            raise
        found = leases.found
        if isinstance(answer, LockHandle):
            assert found is not None
            self._note(found)
            self._first, self._follows = True, False
            await self._run(answer, found, wanted)
            return
        paused = found is not None and found.paused_ms is not None
        self._first = self._first and paused  # it is paused: nobody else has run it
        self._note(found, answer.dead_in_ms)
        self._fresh = False
        await self._sleep(jittered(REFUSED_SECONDS))

    async def _run(self, handle: LockHandle, record: ScheduleRecord, wanted: Wanted) -> None:
        """Run the function of the schedule, and tell what became of it."""
        options, home = self._options, self._home
        tick = Tick(
            schedule=options.name,
            at=moment(wanted.at_ms, options.when.zone),
            missed=record.missed,
            fencing_token=handle.fencing_token,
            attempt=record.starts,
            triggered=record.kind == "trigger",
        )
        block = TickBlock(home, self._open_tick, self._provider, handle)
        began = monotonic()
        if home.observed:
            if wanted.missed:
                home.emit(TicksMissed(home.name, options.name, wanted.missed))
            home.emit(
                TickStarted(home.name, options.name, tick.at, tick.attempt, id=handle._number)
            )
        try:
            with self._stopping.in_progress():
                async with block as inside:
                    await inside._run_tick(options.fn, tick)
        except Exception as error:  # noqa: BLE001 - it is told, and the schedule goes on
            self._tell(tick, error, handle)
        except BaseException:
            self._tell_stopped(tick, handle)
            raise
        else:
            if block._cut:
                self._tell_stopped(tick, handle)
            elif home.observed:
                seconds = monotonic() - began
                home.emit(TickEnded(home.name, options.name, tick.at, seconds, id=handle._number))
        if block.ended in ("done", "failed"):
            ended_ms = self._provider.schedule_now_ms()
            self._record = evolve(record, state=block.ended, ended_ms=ended_ms)
        else:
            await self._look()

    def _tell_stopped(self, tick: Tick, handle: LockHandle) -> None:
        """Tell that a run was cancelled."""
        home = self._home
        if home.observed:
            home.emit(TickStopped(home.name, tick.schedule, tick.at, id=handle._number))

    def _tell(self, tick: Tick, error: Exception, handle: LockHandle) -> None:
        """Tell that a run failed: an observer, or the log."""
        if self._home.observed:
            number = handle._number
            self._home.emit(TickFailed(self._home.name, tick.schedule, tick.at, error, id=number))
        if not notify(self._options.on_error, error):
            log_error("the tick %s of schedule %r failed", tick.at, tick.schedule, error=error)

    def _note_wrong_clock(self, record: ScheduleRecord, now_ms: int) -> None:
        """Tell, once, that nothing starts for long, since ticks to come were run already.

        Only a person can say whether it was that clock which was wrong, or is this one.
        """
        was_ahead, self._ahead = self._ahead, record.after_ms - now_ms > FAR_AHEAD_MS
        if self._ahead and not was_ahead:
            name = self._options.name
            log_warning(
                "schedule %r has run up to %s already: a clock was ahead, or this one is behind; "
                "nothing starts before that, unless store.forget_schedule(%r) lets it begin anew",
                name,
                moment(record.after_ms, self._options.when.zone),
                name,
            )

    def _note_failure(self, error: GogoscopeError) -> None:
        self._failures += 1
        if self._failures == 1:
            log_warning("the store of schedule %r fails", self._options.name, error=error)
            if self._home.observed:
                self._home.emit(ScheduleStoreFailed(self._home.name, self._options.name, error))
