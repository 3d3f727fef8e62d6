"""Random trees of scopes, tasks, failures, timeouts and cancellations against a small model.

Rules 1 to 9: what leaves each block, what each task's result is, and who is told of the errors
that nobody read. Everything begins at once and in virtual time, and no two things happen at
the same time of their own, so the model only has to compare times.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal

import anyio
import pytest
from anyio.abc import TaskGroup
from attrs import Factory, define, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gogoscope import Scope, ScopeClosedError, Task, TaskCancelled, scope
from gogoscope.events import ErrorUnseen, Event
from gogoscope.testing import VirtualClock

NEVER = math.inf
OUTSIDE = "cancellation"
CANCELLED = "TaskCancelled with its scope, or unwanted"
CANCELLED_ALONE = "TaskCancelled alone"
TIMEOUT = "TimeoutError"
WRONG = "TypeError"
DEPTH = 3

LookedAt = Literal["never", "always", "for a while"]

# What an exception is to the model: a name, or the names in a group.
Shape = Any


@frozen
class Leaf:
    """Code that takes some time, then returns or raises; it may raise when cancelled, too."""

    name: str
    lasts: float
    fails: bool
    raises_when_cancelled: bool
    wrong: bool = False


@frozen
class Job:
    """A task: its code, when something cancels it alone, and who looks at it."""

    work: Leaf | Block
    timeout: float
    cancelled_at: float
    looked_at: LookedAt
    patience: float


@frozen
class Block:
    """A scope: its options, its body and tasks, and when it cancels itself."""

    name: str
    timeout: float
    cancelled_at: float
    fail_fast: bool
    cancel_on_exit: bool
    tells: bool
    body: Leaf | Block
    jobs: list[Job]


@define
class Outcome:
    """What became of the blocks and tasks, by name."""

    left: dict[str, Shape] = Factory(dict)
    results: dict[str, list[Shape]] = Factory(dict)
    reported: dict[str, list[Shape]] = Factory(dict)
    told: dict[str, list[Shape]] = Factory(dict)


def together(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Put shapes in an order of their own, since the order of things at one time is no rule."""
    return tuple(sorted(shapes, key=str))


# The model


@frozen
class End:
    """When something ended, and with what: ``None`` for a value."""

    at: float
    shape: Shape


def end_of(work: Leaf | Block, limit: float, outcome: Outcome) -> End:
    """Tell how code ends that is cancelled at ``limit`` if it still runs then."""
    if isinstance(work, Block):
        return end_of_block(work, limit, outcome)
    if work.wrong:
        return End(0, WRONG)
    if work.lasts < limit:
        return End(work.lasts, work.name if work.fails else None)
    return End(limit, work.name if work.raises_when_cancelled else OUTSIDE)


def end_of_job(job: Job, limit: float, outcome: Outcome) -> End:
    """Tell when a task has its result, and which."""
    patience = job.patience if job.looked_at == "for a while" else NEVER
    first = min(limit, job.timeout, job.cancelled_at, patience)
    end = end_of(job.work, first, outcome)
    if end.shape != OUTSIDE:
        return end
    if end.at == job.timeout:
        return End(end.at, TIMEOUT)
    return End(end.at, CANCELLED_ALONE if end.at == job.cancelled_at else CANCELLED)


def is_error(end: End) -> bool:
    return end.shape not in (None, CANCELLED, CANCELLED_ALONE, OUTSIDE)


def end_of_block(block: Block, outside: float, outcome: Outcome) -> End:
    """Tell how a block ends that is cancelled from outside at ``outside``; note it all."""
    limit = min(outside, block.timeout, block.cancelled_at)
    body = end_of(block.body, limit, outcome)
    if body.at < limit and (is_error(body) or block.cancel_on_exit):
        limit = body.at
    jobs = [end_of_job(job, limit, outcome) for job in block.jobs]
    fatal: End | None = None
    if block.fail_fast:
        errors = [end for end in jobs if is_error(end) and end.at < limit]
        fatal = min(errors, key=lambda end: end.at, default=None)
    if fatal is not None:
        limit = fatal.at
        body = end_of(block.body, limit, outcome)
        jobs = [
            fatal if end is fatal else end_of_job(job, limit, outcome)
            for job, end in zip(block.jobs, jobs, strict=True)
        ]
    at = max([body.at, *[end.at for end in jobs]])
    unlooked = [
        end.shape
        for job, end in zip(block.jobs, jobs, strict=True)
        if is_error(end) and end is not fatal and not was_looked_at(job, end)
    ]
    unseen = [] if block.tells else unlooked
    left: Shape = None
    if is_error(body):
        left = body.shape
    elif at == outside:
        left = OUTSIDE
    elif fatal is not None:
        left = fatal.shape
    elif at == block.timeout:
        left = TIMEOUT
    elif unseen:
        left = together(unseen)
    outcome.left[block.name] = left
    outcome.results[block.name] = [end.shape for end in jobs]
    outcome.told[block.name] = list(together(unlooked if block.tells else []))
    raised = isinstance(left, tuple) and not is_error(body) and fatal is None
    outcome.reported[block.name] = [] if raised else list(together(unseen))
    return End(at, left)


def was_looked_at(job: Job, end: End) -> bool:
    return job.looked_at == "always" or (job.looked_at == "for a while" and end.at < job.patience)


# The programs


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Draw a tree of blocks in which no two times are the same."""
    numbers = itertools.count(1)

    def when() -> float:
        if draw(st.booleans()):
            return NEVER
        return draw(st.integers(1, 9)) * 1000 + next(numbers)

    def leaf(*, calm: bool, lasts: float) -> Leaf:
        name = f"error {next(numbers)}"
        return Leaf(name, lasts, draw(st.booleans()), not calm and draw(st.booleans()))

    def work(depth: int, *, calm: bool) -> Leaf | Block:
        if depth and draw(st.integers(0, 2)) == 0:
            return block(depth - 1, calm=calm)
        return leaf(calm=calm, lasts=when())

    def job(depth: int, *, calm: bool, wrong: bool, tells: bool) -> Job:
        looked_at: LookedAt = draw(st.sampled_from(["never", "always", "for a while"]))
        code = work(depth, calm=calm)
        if wrong and draw(st.integers(0, 5)) == 0:
            code = Leaf(WRONG, 0, fails=True, raises_when_cancelled=False, wrong=True)
            looked_at = "never" if tells else looked_at
        return Job(code, when(), when(), looked_at, when())

    def block(depth: int, *, calm: bool) -> Block:
        # Where an error cancels siblings, these are calm: else it is not told which came first.
        fail_fast, tells = draw(st.booleans()), draw(st.booleans())
        calm = calm or fail_fast
        return Block(
            f"block {next(numbers)}",
            timeout=when(),
            cancelled_at=when(),
            fail_fast=fail_fast,
            cancel_on_exit=draw(st.booleans()),
            tells=tells,
            body=work(depth, calm=calm),
            jobs=[
                job(depth, calm=calm, wrong=not fail_fast, tells=tells)
                for _ in range(draw(st.integers(0, 3)))
            ],
        )

    return block(DEPTH, calm=False)


class PlannedError(Exception):
    """An error of the program."""


def shape_of(raised: BaseException | None) -> Shape:
    """Return what an exception is to the model."""
    match raised:
        case None:
            return None
        case PlannedError():
            return str(raised)
        case ExceptionGroup():
            return together(map(shape_of, raised.exceptions))
        case TaskCancelled():
            return CANCELLED_ALONE if raised.reason == "alone" else CANCELLED
        case TimeoutError():
            return TIMEOUT
        case TypeError():
            return WRONG
        case _:
            assert isinstance(raised, anyio.get_cancelled_exc_class()), repr(raised)
            return OUTSIDE


@define
class Execution:
    """Runs a tree of blocks, and notes what becomes of them."""

    group: TaskGroup
    outcome: Outcome
    inline: bool

    async def run(self, work: Leaf | Block, parent: Scope | None) -> None:
        if isinstance(work, Block):
            await self.run_block(work, parent)
            return
        try:
            await sleep(work.lasts)
        except anyio.get_cancelled_exc_class():
            if work.raises_when_cancelled:
                raise PlannedError(work.name) from None
            raise
        if work.fails:
            raise PlannedError(work.name)

    async def run_block(self, block: Block, parent: Scope | None) -> None:
        told: list[Exception] = []
        reported: list[Exception] = []

        def listen(event: Event) -> None:
            if isinstance(event, ErrorUnseen) and event.scope == block.name:
                reported.append(event.error)

        s = (scope if parent is None else parent.child)(
            name=block.name,
            timeout=block.timeout,
            fail_fast=block.fail_fast,
            on_exit="cancel" if block.cancel_on_exit else "wait",
            inline=self.inline,
            on_error=told.append if block.tells else None,
            on_event=listen,
        )
        tasks: list[Task[None]] = []
        left: BaseException | None = None
        try:
            async with s:
                tasks += [self.start(job, s) for job in block.jobs]
                self.group.start_soon(cancel_block, s, block.cancelled_at)
                await self.run(block.body, s)
        except BaseException as raised:
            left = raised
            raise
        finally:
            outcome, fatal = self.outcome, s._fatal
            outcome.left[block.name] = shape_of(left)
            outcome.results[block.name] = [await result_of(task) for task in tasks]
            told = [error for error in told if error is not fatal]
            outcome.told[block.name] = list(together(map(shape_of, told)))
            outcome.reported[block.name] = list(together(map(shape_of, reported)))
            if left is not None and shape_of(left) != OUTSIDE:
                assert len(getattr(left, "__notes__", ())) >= len(set(map(repr, reported)))
            with pytest.raises(ScopeClosedError):
                s.task(anyio.sleep, 0)
            del left

    def start(self, job: Job, s: Scope) -> Task[None]:
        work = job.work
        if isinstance(work, Leaf) and work.wrong:
            not_async: Any = lambda: 3  # noqa: E731 - the type checkers see that it is wrong
            task = s.task(not_async, timeout=job.timeout)
        else:
            task = s.task(self.run, work, s, timeout=job.timeout)
        if job.looked_at != "never":
            patience = job.patience if job.looked_at == "for a while" else NEVER
            self.group.start_soon(look_at, task, patience)
        self.group.start_soon(cancel_task, task, job.cancelled_at)
        return task


async def sleep(seconds: float) -> None:
    await (anyio.sleep_forever() if seconds == NEVER else anyio.sleep(seconds))


async def look_at(task: Task[None], patience: float) -> None:
    with anyio.move_on_after(patience):
        await result_of(task)


async def result_of(task: Task[None]) -> Shape:
    try:
        return shape_of((await task).error)
    except TypeError as error:
        return shape_of(error)


async def cancel_task(task: Task[None], at: float) -> None:
    await sleep(at)
    task.cancel("alone")


async def cancel_block(s: Scope, at: float) -> None:
    await sleep(at)
    s.cancel("enough")
    try:
        late = s.task(anyio.sleep, 0)
    except ScopeClosedError:
        return
    assert isinstance((await late).error, TaskCancelled)


LATEST = 1e6


async def execute(root: Block, outside: float, inline: bool) -> Outcome:
    outcome = Outcome()
    async with anyio.create_task_group() as group:
        try:
            with anyio.move_on_after(outside):
                await Execution(group, outcome, inline).run(root, None)
        except Exception:  # it is in the outcome
            pass
        group.cancel_scope.cancel()
    return outcome


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    root=blocks(),
    outside=st.sampled_from([0.5, 1500.5, 3500.5, 6500.5, LATEST]),
    inline=st.booleans(),
)
def test_rules_1_to_9_hold_for_any_tree_of_scopes_and_tasks(
    backend: Literal["asyncio", "trio"], root: Block, outside: float, inline: bool
) -> None:
    expected = Outcome()
    end_of(root, outside, expected)
    assert VirtualClock().run(execute, root, outside, inline, backend=backend) == expected
