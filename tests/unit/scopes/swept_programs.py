"""Programs to be cancelled at each of their steps, and a ledger of what must not be lost."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from attrs import Factory, define, frozen

from gogoscope import CircuitBreaker, Err, Ok, Once, RateLimit, Retry, Scope, scope
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.stores.memory import MemoryStore

checkpoint = anyio.lowlevel.checkpoint
_numbers = itertools.count()


class PlannedError(Exception):
    """An error that a program raises on purpose."""


class PlannedBodyError(PlannedError):
    """An error that the body of the outermost block raises."""


@define
class Ledger:
    """What a program began, opened and raised, and what of it came to somebody's eyes."""

    running: int = 0
    opened: list[str] = Factory(list)
    faults: list[str] = Factory(list)
    raised: list[PlannedError] = Factory(list)
    seen: list[BaseException] = Factory(list)
    keys: list[str] = Factory(list)

    def new_key(self) -> str:
        """Return the key of something that happens once."""
        self.keys.append(f"number {next(_numbers)}")
        return self.keys[-1]

    def error(self) -> PlannedError:
        """Return a new error, which somebody must see."""
        self.raised.append(PlannedError(f"number {len(self.raised)}"))
        return self.raised[-1]

    def saw(self, result: Ok[Any] | Err) -> Any:
        """Look at a result."""
        if result.error is not None:
            self.seen.append(result.error)
        return result.value

    async def work(self, rounds: int = 2) -> int:
        """Take a few steps, the last one in a ``finally`` block."""
        self.running += 1
        try:
            for _ in range(rounds):
                await checkpoint()
            return rounds
        finally:
            await self._clean_up()

    async def linger(self) -> None:
        """Run for ever, with a ``finally`` block that takes a step."""
        self.running += 1
        try:
            await anyio.sleep_forever()
        finally:
            await self._clean_up()

    async def _clean_up(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await checkpoint()
        finally:  # asyncio's own cancellation knows no shield
            self.running -= 1

    async def fail(self, rounds: int = 1) -> None:
        """Take a few steps and raise."""
        await self.work(rounds)
        raise self.error()

    async def fail_when_cancelled(self) -> None:
        """Run for ever, and raise when cancelled."""
        try:
            await anyio.sleep_forever()
        finally:
            raise self.error()

    @asynccontextmanager
    async def resource(self, name: str) -> AsyncIterator[str]:
        """Open something that must be closed before what was opened earlier."""
        await checkpoint()
        self.opened.append(name)
        try:
            yield name
        finally:
            if self.running:
                self.faults.append(f"{name} was closed while {self.running} tasks ran")
            if self.opened.pop() != name:
                self.faults.append(f"{name} was closed out of order")
            await checkpoint()

    async def source(self, length: int) -> AsyncIterator[int]:
        """Give numbers, with a step before each and after the last; end with an error."""
        self.running += 1
        try:
            for number in range(length):
                await checkpoint()
                yield number
            await checkpoint()
        finally:
            self.running -= 1
        raise self.error()

    def lost(self) -> list[PlannedError]:
        """Return the errors that nobody saw."""
        reached: set[int] = set()
        unread: list[BaseException | None] = [*self.seen]
        while unread:
            error = unread.pop()
            if error is not None and id(error) not in reached:
                reached.add(id(error))
                unread += [error.__cause__, error.__context__]
                if isinstance(error, BaseExceptionGroup):
                    unread += error.exceptions
        return [error for error in self.raised if id(error) not in reached]


async def awaited_and_waited_for(ledger: Ledger, s: Scope) -> None:
    first, second = s.task(ledger.work), s.task(ledger.fail)
    await first.wait()
    ledger.saw(await second)
    s.task(ledger.fail, 3)
    ledger.saw(await first)


async def awaited_by_many(ledger: Ledger, s: Scope) -> None:
    shared = s.task(ledger.fail, 3)

    async def look() -> None:
        ledger.saw(await shared)

    s.task(look)
    async with anyio.create_task_group() as group:
        group.start_soon(look)
        group.start_soon(shared.wait)


async def cancelled_tasks(ledger: Ledger, s: Scope) -> None:
    never = s.task(ledger.work)
    never.cancel("before it starts")
    stubborn = s.task(ledger.fail_when_cancelled)
    await checkpoint()
    stubborn.cancel("while it runs")
    ledger.saw(await stubborn)
    ledger.saw(await never)


async def all_together(ledger: Ledger, s: Scope) -> None:
    tasks = s.task(ledger.fail), s.task(ledger.work, 4), s.task(ledger.fail, 2)
    for result in await s.all(*tasks):
        ledger.saw(result)


async def race(ledger: Ledger, s: Scope) -> None:
    async def quick() -> None:
        await ledger.work(1)

    ledger.saw(await s.race([ledger.linger, quick, anyio.sleep_forever]))


async def hedged(ledger: Ledger, s: Scope) -> None:
    async def refuse() -> int:
        raise LookupError("not counted: the one who asks for any has looked")

    ledger.saw(await s.any([refuse, anyio.sleep_forever, ledger.work], stagger=0.001))


async def map_awaited(ledger: Ledger, s: Scope) -> None:
    async def work(number: int) -> None:
        await (ledger.fail() if number % 2 else ledger.work(number))

    for result in await s.map(work, range(4), limit=2):
        ledger.saw(result)


async def map_iterated_and_left(ledger: Ledger, s: Scope) -> None:
    async def work(number: int) -> None:
        await (ledger.fail_when_cancelled() if number == 2 else ledger.fail(2 - number))

    async for result in s.map(work, ledger.source(9), limit=3):
        ledger.saw(result)
        break
    await s.task(ledger.work)


async def as_completed_and_left(ledger: Ledger, s: Scope) -> None:
    async def work(number: int) -> None:
        await (ledger.fail_when_cancelled() if number == 2 else ledger.fail(2 - number))

    async for _, result in s.as_completed(work, ledger.source(9), limit=3):
        ledger.saw(result)
        break
    await s.task(ledger.work)


async def map_of_a_source_that_fails(ledger: Ledger, s: Scope) -> None:
    try:
        await s.map(ledger.work, ledger.source(3), limit=2)
    except PlannedError as error:
        ledger.seen.append(error)
    try:
        async for result in s.map(ledger.fail, ledger.source(2), limit=2):
            ledger.saw(result)
    except PlannedError as error:
        ledger.seen.append(error)


async def as_completed_to_the_end(ledger: Ledger, s: Scope) -> None:
    async for _, result in s.as_completed(ledger.work, range(4), limit=3, timeout=10):
        ledger.saw(result)


async def every(ledger: Ledger, s: Scope) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        await (ledger.fail() if ticks == 3 else ledger.work(1))

    ledger.saw(await s.every(0.001, tick))


async def stopped_by_its_body(ledger: Ledger, s: Scope) -> None:
    s.task(ledger.work, 3)
    s.task(ledger.linger)
    s.every(0.001, ledger.fail, on_error=ledger.seen.append)
    async with s.child() as child:
        child.task(ledger.fail, on_error=ledger.seen.append)
        await checkpoint()
        await s.stop(grace=0.003)
    await ledger.work()


async def stopped_by_a_leader(ledger: Ledger, s: Scope) -> None:
    async def lead() -> None:
        while not s.stopping.is_set():
            async with s.leader("block", ttl=5) as term:
                term.every(0.001, ledger.work)
                term.task(ledger.linger)
                if s.stopping.is_set():
                    await ledger.work()

    s.task(lead)
    s.task(lead)
    await ledger.work()
    s.stopping.set()
    await s.task(ledger.work)
    s.task(s.stop, 0.003)
    async with s.leader("again"):
        await ledger.work(99)


async def children(ledger: Ledger, s: Scope) -> None:
    async def nest() -> None:
        async with s.child(name="child") as inner:
            await inner.enter(ledger.resource("in the child"))
            inner.task(ledger.fail, 2)

    ledger.saw(await s.task(nest))
    async with s.child() as inner, s.child(on_exit="cancel") as innermost:
        inner.task(ledger.work, 3)
        innermost.task(ledger.work, 99)
        await innermost.task(ledger.work)


async def entered_resources(ledger: Ledger, s: Scope) -> None:
    await s.enter(ledger.resource("first"))
    await s.enter(ledger.resource("second"))
    s.task(ledger.work, 4)
    await s.enter(ledger.resource("third"))


async def deduplicated(ledger: Ledger, s: Scope) -> None:
    calls = [s.task(ledger.fail, 2, dedupe="key") for _ in range(3)]
    calls[0].cancel()
    ledger.saw(await calls[1])
    ledger.saw(await calls[2])
    alone = s.task(ledger.fail_when_cancelled, dedupe="other")
    await s.task(ledger.work)
    alone.cancel()


async def limited(ledger: Ledger, s: Scope) -> None:
    async def nest() -> None:
        await s.task(ledger.work)
        async with s.child() as inner:
            inner.task(ledger.work)
        async with anyio.create_task_group() as group:
            group.start_soon(s.task(ledger.work).wait)
            group.start_soon(s.task(ledger.work, 1).wait)
        await s.map(ledger.work, range(2))
        await s.race([ledger.work, ledger.work])
        await s.all(s.task(ledger.work), s.task(ledger.work))

    first = s.task(nest)
    s.task(nest, priority=1)
    await first


async def retried(ledger: Ledger, s: Scope) -> None:
    retry = Retry(3, delay=0.001, on_retry=lambda attempt, error, delay: ledger.seen.append(error))
    ledger.saw(await s.task(ledger.fail, retry=retry))


async def timed_out(ledger: Ledger, s: Scope) -> None:
    hasty = Retry(2, delay=0, attempt_timeout=0.001)
    ledger.saw(await s.task(ledger.linger, timeout=0.001))
    ledger.saw(await s.task(anyio.sleep, 60, retry=hasty))
    ledger.saw(await s.task(ledger.fail_when_cancelled, timeout=0.001))


async def timed_out_as_a_whole(ledger: Ledger, s: Scope) -> None:
    s.task(ledger.fail)
    s.task(ledger.linger)
    await ledger.linger()


async def threads(ledger: Ledger, s: Scope) -> None:
    def fail() -> None:
        raise ledger.error()

    ledger.saw(await s.thread(fail))
    s.thread(sum, [1, 2])


STORE = MemoryStore()
FRAGILE = CircuitBreaker("fragile", failure_threshold=1, reset_timeout=0.001, refresh_interval=60)


async def locks(ledger: Ledger, s: Scope) -> None:
    async with s.lock("block", ttl=5) as locked:
        locked.task(ledger.work, 3)
        assert await s.acquire_lock("handle", 5) is not None
        ledger.saw(await locked.task(ledger.fail))
        s.task(s.acquire_lock, "block", 5, None)
    async with s.lock("again", ttl=5), s.lock("nested", ttl=5):
        await checkpoint()


async def every_lock_is_free(ledger: Ledger) -> None:
    for key in ("block", "handle", "again", "nested"):
        handle = await STORE.acquire(key, 5)
        assert handle is not None, f"{key} is still held"
        await handle.release()


async def permits(ledger: Ledger, s: Scope) -> None:
    async def write() -> None:
        async with s.write_lock("shared", ttl=5):
            await checkpoint()

    async with s.semaphore("few", 1, ttl=5) as permit, s.read_lock("shared", ttl=5):
        permit.task(ledger.work, 3)
        waiting = s.task(use_permit, s)
        writing = s.task(write)
        await ledger.work()
    await waiting.wait()
    await writing.wait()


async def use_permit(s: Scope) -> None:
    async with s.semaphore("few", 1, ttl=5):
        await checkpoint()


async def every_permit_is_free(ledger: Ledger) -> None:
    for kind, key in (("semaphore", "few"), ("read_write_lock", "shared")):
        record = await STORE.read_permits(kind, key)  # type: ignore[arg-type]
        assert record is None or not (record.holders or record.waiting), f"{key} is still held"


async def runs(ledger: Ledger, s: Scope) -> None:
    first, second = ledger.new_key(), ledger.new_key()
    calls = [s.task(ledger.work, once=Once(first, 60)) for _ in range(3)]
    calls[0].cancel()
    ledger.saw(await calls[1])
    ledger.saw(await calls[2])
    async with s.claim(second, keep=60) as run:
        run.task(ledger.work)
        run.complete(1)


async def no_run_goes_on(ledger: Ledger) -> None:
    async with scope(persistence=STORE) as s:
        for key in ledger.keys:
            async with s.claim(key, keep=60, wait=0):
                pass


async def jobs(ledger: Ledger, s: Scope) -> None:
    async with s.job(ledger.new_key()) as job:
        job.task(ledger.work, 3)
        await job.save({"part": 1})
    async for _, result in s.resume(ledger.new_key(), ledger.work, range(1, 4), save_every=0.001):
        ledger.saw(result)
    async for _, result in s.resume(ledger.new_key(), ledger.work, range(1, 4)):
        ledger.saw(result)
        break


async def every_job_is_free(ledger: Ledger) -> None:
    async with scope(persistence=STORE) as s:
        for key in ledger.keys:
            async with s.job(key, wait=0):
                pass


SELDOM = RateLimit("seldom", rate=1000, burst=2)


async def rate_limited(ledger: Ledger, s: Scope) -> None:
    calls = [s.task(ledger.work, rate_limit=SELDOM) for _ in range(4)]
    calls[2].cancel()
    async with SELDOM.acquire() as permit:
        permit.spent(0.5)
    for call in calls:
        await call.wait()


async def nobody_waits_for_a_place(ledger: Ledger) -> None:
    async with scope(persistence=STORE):
        with anyio.fail_after(20):
            async with SELDOM.acquire():
                pass


async def probing(ledger: Ledger, s: Scope) -> None:
    ledger.saw(await s.task(ledger.fail))
    await anyio.sleep(0.002)
    ledger.saw(await s.task(ledger.work))


async def no_probe_is_out(ledger: Ledger) -> None:
    state = await STORE.get_state("fragile")
    assert state is None or not state.probes
    await STORE.set_state("fragile", CircuitBreakerState())


async def failing_fast(ledger: Ledger, s: Scope) -> None:
    s.task(ledger.work, 99)
    s.task(ledger.fail, 3)
    ledger.saw(await s.task(ledger.fail_when_cancelled))


async def told_by_on_error(ledger: Ledger, s: Scope) -> None:
    s.task(ledger.fail, on_error=ledger.seen.append)
    s.task(ledger.fail, 2)
    await ledger.work(3)
    raise PlannedBodyError


@frozen
class Program:
    """A block of a scope, the options of the scope, and what leaves it if nobody cancels."""

    body: Callable[[Ledger, Scope], Awaitable[None]]
    leaves: type[Exception] | None = None
    options: dict[str, Any] = Factory(dict)
    afterwards: Callable[[Ledger], Awaitable[None]] | None = None


PROGRAMS = [
    Program(awaited_and_waited_for, ExceptionGroup),
    Program(awaited_by_many),
    Program(cancelled_tasks),
    Program(all_together),
    Program(race),
    Program(hedged),
    Program(map_awaited),
    Program(map_iterated_and_left, ExceptionGroup),
    Program(as_completed_and_left, ExceptionGroup),
    Program(as_completed_to_the_end),
    Program(map_of_a_source_that_fails),
    Program(every),
    Program(stopped_by_its_body),
    Program(stopped_by_a_leader, options={"persistence": STORE}, afterwards=every_lock_is_free),
    Program(children),
    Program(entered_resources),
    Program(deduplicated, ExceptionGroup),
    Program(limited, options={"concurrency": 1}),
    Program(map_iterated_and_left, ExceptionGroup, {"concurrency": 2}),
    Program(retried),
    Program(timed_out),
    Program(timed_out_as_a_whole, TimeoutError, {"timeout": 0.02}),
    Program(threads),
    Program(locks, options={"persistence": STORE}, afterwards=every_lock_is_free),
    Program(permits, options={"persistence": STORE}, afterwards=every_permit_is_free),
    Program(runs, options={"persistence": STORE}, afterwards=no_run_goes_on),
    Program(jobs, options={"persistence": STORE}, afterwards=every_job_is_free),
    Program(rate_limited, options={"persistence": STORE}, afterwards=nobody_waits_for_a_place),
    Program(
        probing,
        options={"persistence": STORE, "circuit_breaker": FRAGILE},
        afterwards=no_probe_is_out,
    ),
    Program(failing_fast, PlannedError, {"fail_fast": True}),
    Program(entered_resources, options={"on_exit": "cancel"}),
    Program(entered_resources, options={"persistence": "memory://sweep"}),
    Program(told_by_on_error, PlannedBodyError),
]


def swept(*left_out: Callable[[Ledger, Scope], Awaitable[None]]) -> list[Any]:
    """Return the programs as parameters of a test, but some."""
    return [
        pytest.param(
            program,
            id=" ".join([program.body.__name__, *program.options]),
            marks=[pytest.mark.slow] if program.body in (permits, runs, jobs, rate_limited) else [],
        )
        for program in PROGRAMS
        if program.body not in left_out
    ]
