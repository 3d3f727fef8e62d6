"""A process with a schedule, whose clock is off."""

from __future__ import annotations

import importlib
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
from attrs import frozen
from fleet_parts.journal import Journal

from gogoscope import PersistenceURL, Tick, interval, scope

LONGEST_JOB = 0.1


@frozen
class Work:
    """What a process is to do, and in which world."""

    journal: Path
    url: str
    every: float
    off: float
    skew: float
    lease: float


class WrongClock:
    """The clock of a machine on which nobody has set it for long."""

    def __init__(self, clock: Any, off: float) -> None:
        self.wall = lambda: clock.wall() + off
        self.elapsed = clock.elapsed
        self.timeline = clock.timeline


def run_worker(work: Work) -> None:
    """Run the ticks that this process gets, until it is killed."""
    anyio.run(keep_schedule, work)


async def keep_schedule(work: Work) -> None:
    """Run the ticks that this process gets."""
    clocks = importlib.import_module("gogoscope._core.clock")  # as no program does but this one
    clocks.clock_in_context.set(WrongClock(clocks.clock_here(), work.off))
    journal = Journal(work.journal)

    async def nightly_job(tick: Tick) -> None:
        at_ms = round(tick.at.timestamp() * 1000)
        journal.note("begin", tick=at_ms, attempt=tick.attempt, wall=time.time())
        await anyio.sleep(random.uniform(0, LONGEST_JOB))
        journal.note("end", tick=at_ms)

    async with scope(persistence=with_skew(work.url, work.skew)) as s:
        s.schedule("nightly", interval(work.every), nightly_job, missed="all", lease=work.lease)


def with_skew(url: str, skew: float) -> str:
    """Return the URL of a store that is told by how much clocks differ."""
    options = {**PersistenceURL.parse(url).options, "max_clock_skew": f"{skew:g}"}
    return f"{url.partition('?')[0]}?{urlencode(options, safe=':/')}"
