"""A program that is cancelled at any of its steps leaves nothing behind and loses nothing.

Each program is run again and again, and cancelled at its first, second, third ... step, until it
ends by itself. A step is what one of its tasks does between two suspensions.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from types import CodeType
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from attrs import Factory, define

from gogoscope import Ok, Scope, TaskCancelled, current_scope, scope
from gogoscope.scopes.runner import Worker
from gogoscope.scopes.services import Services
from gogoscope.scopes.workers import Workers
from tests.unit.scopes.stepping import calling_after_each_step
from tests.unit.scopes.swept_programs import (
    Ledger,
    PlannedBodyError,
    PlannedError,
    Program,
    every,
    failing_fast,
    hedged,
    swept,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]

MOST_STEPS = 400
ON_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            id="uvloop",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no Windows build"),
        ),
    ],
)
How = Literal[
    "from outside", "by asyncio", "by itself", "one task by asyncio", "all tasks by asyncio"
]


@define
class Run:
    """One run of a program: where it was cancelled, if it lived that long, and what came of it."""

    program: Program
    how: How
    step: int
    taken: int = 0
    cancelled: bool = False
    left: BaseException | None = None
    ended: bool = False
    ledger: Ledger = Factory(Ledger)
    scope: Scope | None = None
    cancel: Callable[[], object] | None = None

    def take_step(self) -> None:
        if self.how == "one task by asyncio" and not own_tasks(asyncio.current_task()):
            return
        self.taken += 1
        if self.taken == self.step and self.cancel is not None and not self.ended:
            self.cancelled = True
            self.cancel()

    async def execute(self) -> None:
        try:
            async with scope(name="swept", **self.program.options) as s:
                self.scope = s
                if self.how == "by itself":
                    self.cancel = s.cancel
                await self.program.body(self.ledger, s)
        except BaseException as left:
            self.left = left
            raise
        finally:
            self.ended = True
            assert current_scope() is None

    async def host(self) -> None:
        """Run the program in a task of its own, and cancel it as it should be."""
        outside = anyio.CancelScope()
        if self.how == "from outside":
            self.cancel = outside.cancel
        elif self.how == "by asyncio":
            task = asyncio.current_task()
            assert task is not None
            self.cancel = task.cancel
        elif self.how == "one task by asyncio":
            self.cancel = lambda: cancel_all(asyncio.current_task())
        elif self.how == "all tasks by asyncio":
            self.cancel = lambda: cancel_all(*asyncio.all_tasks())
        with outside:
            try:
                await self.execute()
            except Exception:  # it is in self.left
                return

    def complaints(self, logged: list[BaseException]) -> list[str]:
        """Tell everything that is not as it must be after the run."""
        ledger, s = self.ledger, self.scope
        found = [*ledger.faults]
        if ledger.running:
            found.append(f"{ledger.running} finally blocks did not run")
        if ledger.opened:
            found.append(f"still open: {ledger.opened}")
        if not self._left_as_it_must():
            found.append(f"{self.left!r} left the block")
        ledger.seen += logged if self.left is None else [*logged, self.left]
        if lost := ledger.lost():
            found.append(f"nobody saw {lost}")
        if s is not None:
            left: list[object] = [*s._works, *s._works._offers, *s._inside, *s._dedupe._flights]
            if left:
                found.append(f"the scope still has {left}")
            if s._slots is not None and (s._slots._free != s._slots.limit or s._slots._waiting):
                found.append(f"{s._slots._free} of {s._slots.limit} slots are free")
        return found

    def _left_as_it_must(self) -> bool:
        if not self.cancelled:
            return type(self.left) is (self.program.leaves or type(None))
        if isinstance(self.left, PlannedBodyError):  # goes before a cancellation that comes with it
            return self.program.leaves is PlannedBodyError
        if self.how in ("one task by asyncio", "all tasks by asyncio"):
            return self.left is None or all(map(planned, leaves_of(self.left)))
        if self.how == "by itself":
            return (
                isinstance(self.left, (ExceptionGroup, self.program.leaves or ExceptionGroup))
                or self.left is None
            )
        return isinstance(self.left, anyio.get_cancelled_exc_class())


def planned(error: BaseException) -> bool:
    """Return whether the program raises an error itself, or gets it for what was cancelled."""
    return isinstance(error, PlannedError | TaskCancelled | TimeoutError)


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves_of(inner)
    else:
        yield error


OF_SCOPES = {Worker.run, Workers._work, Workers._step, Services._serve}
"""What the tasks of the event loop run that a scope starts."""


def own_tasks(*tasks: asyncio.Task[Any] | None) -> list[asyncio.Task[Any]]:
    """Return those of some tasks that a scope started."""
    codes = {function.__code__ for function in OF_SCOPES}
    return [task for task in tasks if task is not None and codes & set(codes_of(task.get_coro()))]


def codes_of(coroutine: Any) -> Iterator[CodeType]:
    """Return what a coroutine runs, from its outermost function to its innermost."""
    while coroutine is not None:
        coroutine = getattr(coroutine, "_coroutine", coroutine)  # of one whose steps are counted
        code = getattr(coroutine, "cr_code", None)
        if code is not None:
            yield code
            handle = coroutine.cr_frame and coroutine.cr_frame.f_locals.get("self")
            yield from codes_of(getattr(handle, "coro", None)) if not coroutine.cr_await else ()
        coroutine = getattr(coroutine, "cr_await", None)


def cancel_all(*tasks: asyncio.Task[Any] | None) -> None:
    for task in own_tasks(*tasks):
        task.cancel()


async def sweep(program: Program, how: How, log: list[BaseException]) -> None:
    """Run a program and cancel it at each of its steps in turn."""
    for step in itertools.count(1):
        assert step < MOST_STEPS, "the program does not come to its end"
        run = Run(program, how, step)
        log.clear()
        before = {task.id for task in anyio.get_running_tasks()}
        with anyio.fail_after(10), calling_after_each_step(run.take_step):
            await run_in_a_task(run.host)
        left_over = [task for task in anyio.get_running_tasks() if task.id not in before]
        assert not left_over, f"cancelled at step {step}"
        if program.afterwards is not None:
            await program.afterwards(run.ledger)
        assert not run.complaints(log), f"cancelled at step {step}"
        if not run.cancelled:
            return


async def run_in_a_task(fn: Callable[[], Coroutine[Any, Any, None]]) -> None:
    if "asyncio" in anyio.get_cancelled_exc_class().__module__:
        task = asyncio.create_task(fn())
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(fn)


@pytest.fixture
def log() -> Iterator[list[BaseException]]:
    """Collect the errors that are logged, and keep them from everybody else."""
    errors: list[BaseException] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            errors.append(record.exc_info[1])
        return False

    logger = logging.getLogger("gogoscope")
    logger.addFilter(collect)
    yield errors
    logger.removeFilter(collect)


@pytest.mark.parametrize("program", swept())
async def test_cancelled_from_outside_at_any_step_a_program_leaves_nothing_and_loses_nothing(
    program: Program, log: list[BaseException]
) -> None:
    await sweep(program, "from outside", log)


@pytest.mark.parametrize("program", swept())
async def test_cancelled_by_itself_at_any_step_a_program_leaves_nothing_and_loses_nothing(
    program: Program, log: list[BaseException]
) -> None:
    await sweep(program, "by itself", log)


@ON_ASYNCIO
@pytest.mark.parametrize("program", swept())
async def test_cancelled_by_asyncio_at_any_step_a_program_leaves_nothing_and_loses_nothing(
    program: Program, log: list[BaseException]
) -> None:
    await sweep(program, "by asyncio", log)


@ON_ASYNCIO
@pytest.mark.parametrize("all_tasks", [False, True], ids=["one", "all"])
@pytest.mark.parametrize(
    "program",
    swept(hedged, every, failing_fast),  # which wait for what is cancelled
)
async def test_what_asyncio_cancels_at_any_step_ends_alone_and_the_body_goes_on(
    program: Program, all_tasks: bool, log: list[BaseException]
) -> None:
    await sweep(program, "all tasks by asyncio" if all_tasks else "one task by asyncio", log)


# What the sweep found, one by one


async def test_all_that_is_cancelled_has_not_looked_at_the_errors_it_had_so_far() -> None:
    ledger = Ledger()
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            failed, endless = s.task(ledger.fail), s.task(anyio.sleep_forever)
            async with anyio.create_task_group() as group:
                group.start_soon(s.all, failed, endless)
                await failed.wait()
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
    assert list(caught.value.exceptions) == ledger.raised


@pytest.mark.parametrize("method", ["map", "as_completed"])
async def test_an_error_of_an_item_that_is_cancelled_is_not_lost(method: str) -> None:
    ledger = Ledger()

    async def work(number: int) -> None:
        if number:
            await ledger.fail_when_cancelled()

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            async for _ in getattr(s, method)(work, range(2)):
                break
    assert list(caught.value.exceptions) == ledger.raised


async def test_an_error_of_a_source_whose_consumer_has_left_is_not_lost() -> None:
    ledger = Ledger()

    async def source() -> AsyncIterator[int]:
        yield 1
        await ledger.fail_when_cancelled()

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            async for _ in s.map(ledger.work, source()):
                break
    assert list(caught.value.exceptions) == ledger.raised


async def test_an_async_generator_that_is_left_early_ends_with_the_scope() -> None:
    ledger = Ledger()
    async with scope() as s:
        async for _ in s.map(ledger.work, ledger.source(10), limit=1):
            break
    assert not ledger.running


async def test_a_map_whose_scope_is_cancelled_does_not_look_complete() -> None:
    ledger = Ledger()
    async with scope() as outer:
        async with scope() as s:

            async def collect() -> list[Any]:
                return list(await s.map(lambda _: ledger.linger(), range(10), limit=2))

            task = outer.task(collect)
            await anyio.wait_all_tasks_blocked()
            s.cancel("enough")
        err, _ = await task
    assert isinstance(err, TaskCancelled)


async def test_the_timeout_of_a_scope_that_cuts_the_closing_of_a_resource_short_is_raised() -> None:
    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        yield
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        async with scope(timeout=0.01) as s:
            await s.enter(resource())


async def test_an_error_that_failed_fast_is_not_lost_when_another_goes_out() -> None:
    ledger = Ledger()
    with pytest.raises(KeyError) as caught:
        async with scope(fail_fast=True) as s:
            s.task(ledger.fail)
            try:
                await anyio.sleep_forever()
            finally:
                raise KeyError("of the body")
    assert any("Planned" in note for note in caught.value.__notes__)


async def test_rule_11_a_call_that_is_cancelled_before_it_starts_calls_nothing() -> None:
    ledger = Ledger()
    async with scope() as s:
        s.task(ledger.fail, dedupe="key").cancel()
    assert not ledger.raised


async def test_rule_11_a_call_does_not_share_the_outcome_of_one_that_is_being_cancelled() -> None:
    ledger, ended = Ledger(), anyio.Event()

    async def slow_to_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await ended.wait()

    async with scope() as s:
        first = s.task(slow_to_end, dedupe="key")
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await first.wait()
        second = s.task(ledger.work, dedupe="key")
        ended.set()
        assert await second == Ok(None, 2)


async def test_rule_11_an_error_of_a_call_that_everybody_cancelled_is_not_lost() -> None:
    ledger = Ledger()
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            call = s.task(ledger.fail_when_cancelled, dedupe="key")
            await anyio.wait_all_tasks_blocked()
            call.cancel()
    assert list(caught.value.exceptions) == ledger.raised


@ON_ASYNCIO
async def test_a_cancellation_by_asyncio_leaves_a_scope_that_cancels_itself() -> None:
    started, ended = anyio.Event(), anyio.Event()

    async def slow_to_end() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await ended.wait()

    async def cancelled() -> None:
        async with scope() as s:
            task = s.task(slow_to_end)
            await started.wait()
            task.cancel()
            s.cancel("enough")
            await anyio.sleep_forever()

    host = asyncio.create_task(cancelled())
    await started.wait()
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    host.cancel()
    ended.set()
    await asyncio.wait([host])
    assert host.cancelled()
