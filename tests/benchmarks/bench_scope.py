"""What a scope costs beside bare task groups, and beside libraries that do part of the same.

All sides of a case take turns in one run, each time on an event loop of its own; the table shows
the medians of the processor's time, so that other programs count for little, and what they are to
the case's first side. Peers that are not installed are named (``pip install 'gogoscope[bench]'``
brings them). Run it from the repository:

    python -m tests.benchmarks.bench_scope [--rounds 15] [--check]

``--check`` fails if a ratio of ours is over its target.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import anyio
import trio
from attrs import Factory, define

from gogoscope import Retry, scope
from gogoscope.events import subscribers
from tests.benchmarks.peers import why_left_out

SEQUENTIAL = 2_000
FAN_OUT = 10_000
SLEEPERS = 1_000
ITEMS = 10_000
LIMIT = 10
CALLS = 20_000

Side = Callable[[], float]
"""Do the work, and return its seconds."""
Body = Callable[[], Awaitable[object]]
AsyncFunction = Callable[[], Coroutine[Any, Any, None]]


@define
class Case:
    """The same work done by several sides; the first is what the others are compared with."""

    name: str
    operations: int
    sides: dict[str, Side] = Factory(dict)
    targets: dict[str, float] = Factory(dict)
    pairs: dict[tuple[str, str], float] = Factory(dict)
    """Targets for the ratio of two sides."""
    left_out: dict[str, str] = Factory(dict)
    """Sides of other libraries that could not be measured, and why."""


async def no_op() -> None:
    """Do nothing."""


async def no_op_of(item: int) -> int:
    """Return the item."""
    return item


async def yield_of(item: int) -> int:
    """Return the item, after the other tasks had their turn."""
    await anyio.sleep(0)
    return item


async def timed(body: Body) -> float:
    """Return the processor's time of a body, inside a running event loop."""
    await body()  # warms up what is loaded or cached when first used
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        await body()
        return time.process_time() - began
    finally:
        gc.enable()


def on_asyncio(body: Body) -> Side:
    """Run a body on an asyncio event loop of its own."""
    return lambda: asyncio.run(timed(body))


def on_trio(body: Body) -> Side:
    """Run a body on a trio event loop of its own."""
    return lambda: trio.run(timed, body)


class PeerError(Exception):
    """Another library is not there, or broke."""


def peer(name: str, body: Callable[[Any], Awaitable[object]]) -> Side:
    """Run a body that takes a library."""

    def side() -> float:
        try:
            return on_asyncio(functools.partial(body, importlib.import_module(name)))()
        except Exception as error:
            raise PeerError(why_left_out(error)) from error

    return side


def sequential() -> Case:  # noqa: C901 - one function for each side
    """Start one task after the other, and await each."""

    async def bare() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(SEQUENTIAL):
                await group.start_soon(no_op)

    async def ours() -> None:
        async with scope() as s:
            for _ in range(SEQUENTIAL):
                await s.task(no_op)

    async def ours_raising() -> None:
        async with scope() as s:
            for _ in range(SEQUENTIAL):
                await s.call(no_op)

    async def task_group() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(SEQUENTIAL):
                await group.create_task(no_op())

    async def gather() -> None:
        for _ in range(SEQUENTIAL):
            await asyncio.gather(no_op())

    async def nursery() -> None:
        async def one(done: trio.Event) -> None:
            await no_op()
            done.set()

        async with trio.open_nursery() as group:
            for _ in range(SEQUENTIAL):
                done = trio.Event()
                group.start_soon(one, done)
                await done.wait()

    async def aiometer(library: Any) -> None:
        for _ in range(SEQUENTIAL):
            await library.run_all([no_op])

    async def aiotools(library: Any) -> None:
        async with library.TaskScope() as group:
            for _ in range(SEQUENTIAL):
                await group.create_task(no_op())

    async def asyncer(library: Any) -> None:
        for _ in range(SEQUENTIAL):
            async with library.create_task_group() as group:
                group.soonify(no_op)()

    async def quattro(library: Any) -> None:
        for _ in range(SEQUENTIAL):
            await library.gather(no_op())

    return Case(
        "sequential await of a no-op",
        SEQUENTIAL,
        {
            "anyio": on_asyncio(bare),
            "gogoscope": on_asyncio(ours),
            "gogoscope, s.call": on_asyncio(ours_raising),
            "anyio, on trio": on_trio(bare),
            "gogoscope, on trio": on_trio(ours),
            "asyncio.TaskGroup": on_asyncio(task_group),
            "asyncio.gather": on_asyncio(gather),
            "trio nursery and event": on_trio(nursery),
            "aiometer": peer("aiometer", aiometer),
            "aiotools": peer("aiotools", aiotools),
            "asyncer": peer("asyncer", asyncer),
            "quattro": peer("quattro", quattro),
        },
        pairs={
            ("gogoscope", "asyncio.TaskGroup"): 0.4,
            ("gogoscope, s.call", "asyncio.TaskGroup"): 0.4,
            ("gogoscope, on trio", "trio nursery and event"): 0.5,
        },
    )


def fan_out(  # noqa: C901 - likewise
    name: str, tasks: int, fn: AsyncFunction, against: str, target: float
) -> Case:
    """Start many tasks at once.

    :param against: the side that ours is to be ``target`` times as slow as, at most
    """

    async def bare() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(fn)

    async def ours() -> None:
        async with scope() as s:
            for _ in range(tasks):
                s.task(fn)

    async def task_group() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(fn())

    async def gather() -> None:
        await asyncio.gather(*[fn() for _ in range(tasks)])

    async def nursery() -> None:
        async with trio.open_nursery() as group:
            for _ in range(tasks):
                group.start_soon(fn)

    async def aiometer(library: Any) -> None:
        await library.run_all([fn] * tasks)

    async def aiotools(library: Any) -> None:
        async with library.TaskScope() as group:
            for _ in range(tasks):
                group.create_task(fn())

    async def asyncer(library: Any) -> None:
        async with library.create_task_group() as group:
            for _ in range(tasks):
                group.soonify(fn)()

    async def quattro(library: Any) -> None:
        await library.gather(*[fn() for _ in range(tasks)])

    return Case(
        name,
        tasks,
        {
            "anyio": on_asyncio(bare),
            "gogoscope": on_asyncio(ours),
            "anyio, on trio": on_trio(bare),
            "gogoscope, on trio": on_trio(ours),
            "asyncio.TaskGroup": on_asyncio(task_group),
            "asyncio.gather": on_asyncio(gather),
            "trio nursery": on_trio(nursery),
            "aiometer": peer("aiometer", aiometer),
            "aiotools": peer("aiotools", aiotools),
            "asyncer": peer("asyncer", asyncer),
            "quattro": peer("quattro", quattro),
        },
        pairs={("gogoscope", against): target},
    )


async def sleep_a_little() -> None:
    """Sleep for 1 ms."""
    await anyio.sleep(0.001)


def limited_map(name: str, fn: Callable[[int], Awaitable[int]]) -> Case:  # noqa: C901 - likewise
    """Call a function on many items, at most ten at a time, and keep the results."""

    def generated() -> Iterator[int]:
        yield from range(ITEMS)

    async def bare() -> None:
        limiter = anyio.CapacityLimiter(LIMIT)
        results: list[int] = []

        async def one(item: int) -> None:
            async with limiter:
                results.append(await fn(item))

        async with anyio.create_task_group() as group:
            for item in range(ITEMS):
                group.start_soon(one, item)

    async def ours() -> None:
        async with scope() as s:
            await s.map(fn, range(ITEMS), limit=LIMIT)

    async def ours_iterated() -> None:
        async with scope() as s:
            async for _ in s.map(fn, range(ITEMS), limit=LIMIT):
                pass

    async def ours_from_a_generator() -> None:
        async with scope() as s:
            await s.map(fn, generated(), limit=LIMIT)

    async def gather() -> None:
        semaphore = asyncio.Semaphore(LIMIT)

        async def one(item: int) -> None:
            async with semaphore:
                await fn(item)

        await asyncio.gather(*[one(item) for item in range(ITEMS)])

    async def aiometer(library: Any) -> None:
        calls = [functools.partial(fn, item) for item in range(ITEMS)]
        await library.run_all(calls, max_at_once=LIMIT)

    async def quattro(library: Any) -> None:
        await library.gather(*map(fn, range(ITEMS)), concurrency_limit=LIMIT)

    return Case(
        name,
        ITEMS,
        {
            "anyio + CapacityLimiter": on_asyncio(bare),
            "gogoscope": on_asyncio(ours),
            "gogoscope, async for": on_asyncio(ours_iterated),
            "gogoscope, from a generator": on_asyncio(ours_from_a_generator),
            "anyio, on trio": on_trio(bare),
            "gogoscope, on trio": on_trio(ours),
            "asyncio.gather + Semaphore": on_asyncio(gather),
            "aiometer": peer("aiometer", aiometer),
            "quattro": peer("quattro", quattro),
        },
        {"gogoscope": 0.5},
        {
            ("gogoscope", "asyncio.gather + Semaphore"): 0.8,
            ("gogoscope, async for", "gogoscope"): 1.2,
        },
    )


def retry() -> Case:
    """Call what never fails."""

    async def bare() -> None:
        for _ in range(CALLS):
            await no_op()

    async def anew() -> None:
        for _ in range(CALLS):
            await Retry().call(no_op)

    async def ours() -> None:
        policy = Retry()
        for _ in range(CALLS):
            await policy.call(no_op)

    return Case(
        "retry without a failure",
        CALLS,
        {
            "bare await": on_asyncio(bare),
            "one Retry for all calls": on_asyncio(ours),
            "a Retry for each call": on_asyncio(anew),
        },
        {"one Retry for all calls": 6.0},
    )


def events() -> Case:
    """Start tasks with nobody listening, and with one listener."""

    async def run(on_event: Callable[[object], object] | None) -> None:
        async with scope(on_event=on_event) as s:
            for _ in range(FAN_OUT):
                s.task(no_op)

    async def ask_whether_anybody_listens() -> None:
        s = scope()
        for _ in range(FAN_OUT):
            if s._home.on_event is not None or subscribers:  # at the start of a task
                raise AssertionError("nobody listens")
            if s._home.on_event is not None or subscribers:  # and at its end
                raise AssertionError("nobody listens")

    return Case(
        "events",
        FAN_OUT,
        {
            "nobody listens": on_asyncio(lambda: run(None)),
            "a listener that does nothing": on_asyncio(lambda: run(lambda event: None)),
            "asking whether anybody listens": on_asyncio(ask_whether_anybody_listens),
        },
        {"asking whether anybody listens": 0.05},
    )


def importing() -> Case:
    """Import the package in a fresh interpreter, less what starting the interpreter takes.

    Compiled before, as an installed package is, whatever this environment does with bytecode.
    """
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}

    def seconds_of(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        return time.perf_counter() - began

    def importing_of(names: str) -> Side:
        return lambda: max(1e-9, seconds_of(f"import {names}") - seconds_of("pass"))

    return Case(
        "import",
        1,
        {"anyio, attrs": importing_of("anyio, attrs"), "gogoscope": importing_of("gogoscope")},
        {"gogoscope": 2.0},
    )


def cases() -> Iterator[Case]:
    """Return every case."""
    yield sequential()
    no_ops = f"fan-out of {FAN_OUT:,} no-ops"
    yield fan_out(no_ops, FAN_OUT, no_op, "asyncio.TaskGroup", 0.65)
    sleepers = f"{SLEEPERS:,} tasks that sleep 1 ms"
    yield fan_out(sleepers, SLEEPERS, sleep_a_little, "anyio", 1.1)
    yield limited_map(f"map of {ITEMS:,} no-ops, {LIMIT} at a time", no_op_of)
    yield limited_map(f"map of {ITEMS:,} yields, {LIMIT} at a time", yield_of)
    yield retry()
    yield events()
    yield importing()


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Return the median of each side in seconds; they take turns, in both directions."""
    times: dict[str, list[float]] = {name: [] for name in case.sides}
    order = list(case.sides.items())
    for _ in range(rounds):
        for name, side in order:
            if name in case.left_out:
                continue
            try:
                times[name].append(side())
            except PeerError as failed:
                case.left_out[name] = str(failed)
        order.reverse()
    return {
        name: statistics.median(taken) for name, taken in times.items() if name not in case.left_out
    }


def report(case: Case, medians: dict[str, float]) -> bool:
    """Print the table of a case; tell whether every target is met."""
    fine = True
    first = next(iter(medians.values()))
    print(f"\n{case.name:<34}{'us each':>10}{'ratio':>9}{'target':>9}")
    for name in case.sides:
        if name in case.left_out:
            print(f"  {name:<32}  {case.left_out[name]}")
            continue
        ratio, target = medians[name] / first, case.targets.get(name)
        verdict = ""
        if target is not None:
            fine = fine and ratio <= target
            verdict = f"{target:>9.2f}  {'pass' if ratio <= target else 'MISS'}"
        each = medians[name] / case.operations * 1e6
        print(f"  {name:<32}{each:>10.2f}{ratio:>9.2f}{verdict}")
    for (one, other), target in case.pairs.items():
        ratio = medians[one] / medians[other]
        fine = fine and ratio <= target
        pair = f"{one} : {other}"
        print(f"  {pair:<42}{ratio:>9.2f}{target:>9.2f}  {'pass' if ratio <= target else 'MISS'}")
    return fine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    results = [report(case, measure(case, options.rounds)) for case in cases()]
    sys.exit(options.check and not all(results))
