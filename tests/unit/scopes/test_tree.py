"""Rule 13: seeing what runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from types import CodeType

import anyio
import pytest

import gogoscope
from gogoscope import Once, Retry, Scope, scope
from gogoscope.scopes import tree as scopes_tree
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio


async def fail(error: Exception) -> int:
    await anyio.sleep(0)
    raise error


async def test_rule_13_the_tree_shows_scopes_tasks_ages_and_what_each_waits_for() -> None:
    async def inside(s: Scope) -> None:
        async with s.child(name="inner") as inner:
            await inner.task(anyio.sleep_forever, name="sleeper")

    async def holds_lock() -> None:
        async with s.lock("order"):
            await anyio.sleep_forever()

    async def wants_lock() -> None:
        async with s.lock("order"):
            pass

    async with scope(name="outer", concurrency=10, on_exit="cancel") as s:
        first = s.task(anyio.sleep_forever, name="first")
        s.task(inside, s, name="parent")
        s.task(first.wait, name="follower")
        s.task(fail, OSError("broken"), retry=Retry(2, delay=1000), name="flaky")
        s.task(holds_lock, name="holder")
        await anyio.wait_all_tasks_blocked()
        s.task(wants_lock, name="waiter")
        mapped = s.task(lambda: s.map(lambda _: anyio.sleep_forever(), [1, 2]), name="mapper")
        full = [s.task(anyio.sleep_forever, name=f"filler {number}") for number in range(9)]
        await anyio.wait_all_tasks_blocked()
        tree = s.tree()
        lines = {line.split(" [")[0].strip(): line for line in tree.splitlines()}
        assert lines["scope outer"].startswith("scope outer [open, 0.")
        assert lines["scope inner"].startswith("    scope inner")
        assert lines["task sleeper"].startswith("      task sleeper [running, 0.")
        assert lines["task follower"].endswith("waits for task first")
        assert lines["task waiter"].endswith("waits for lock 'order'")
        assert "holds_lock (test_tree.py:" in lines["task holder"]
        assert "waits for a slot" in tree
        assert "2 running, 0 finished" in tree
        assert lines["task flaky"].endswith("waits for try 2 after OSError('broken')")
        del mapped, full


async def test_rule_13_a_task_that_has_not_waited_yet_is_running_and_has_no_age() -> None:
    def draw() -> Awaitable[None]:
        drawn.append(s.tree())
        return anyio.sleep(0)

    async def draws() -> None:
        drawn.append(s.tree())

    drawn: list[str] = []
    async with scope(name="outer") as s:
        drawing = s.task(draws, name="drawing")
        assert "task drawing [waiting]" in s.tree()
        assert drawing.state == "waiting"
        s.task(draw, name="drawing")
    assert ["task drawing [running]" in tree for tree in drawn] == [True, True]


async def test_rule_13_the_tree_shows_that_a_block_waits_for_its_tasks() -> None:
    async def inside() -> None:
        async with scope(name="inner") as inner:
            inner.task(anyio.sleep_forever)

    async with scope(name="outer") as s:
        s.task(inside, name="parent")
        await anyio.wait_all_tasks_blocked()
        lines = [line.strip() for line in s.tree().splitlines()]
        s.cancel()
    assert lines[1].startswith("task parent [running")
    assert lines[1].endswith("waits for the tasks of inner")


def functions_in(code: CodeType) -> Iterator[str]:
    yield code.co_qualname
    for inside in code.co_consts:
        if isinstance(inside, CodeType):
            yield from functions_in(inside)


def test_rule_13_each_wait_that_the_tree_knows_by_its_name_is_one_of_a_function() -> None:
    functions: set[str] = set()
    for path in Path(gogoscope.__file__).parent.rglob("*.py"):
        functions.update(functions_in(compile(path.read_text("utf-8"), str(path), "exec")))
    assert scopes_tree._WAITS.keys() <= functions


async def test_scopes_may_be_nested_deeper_than_python_recurses() -> None:
    depth = sys.getrecursionlimit()
    async with contextlib.AsyncExitStack() as stack:
        s = outermost = await stack.enter_async_context(scope(name="0"))
        for level in range(1, depth):
            s = await stack.enter_async_context(s.child(name=str(level)))
        s.task(anyio.sleep, 0)
        lines = outermost.tree().splitlines()
    assert len(lines) == depth + 1
    assert lines[-2].startswith("  " * (depth - 1) + f"scope {depth - 1} [open")
    assert lines[-1].startswith("  " * depth + "task sleep [waiting")


async def test_what_would_control_the_terminal_is_escaped() -> None:
    async with scope(name="evil\x1b[2J\u202e\nscope x [open]") as s:
        s.task(anyio.sleep, 0, name="\x07bell")
        drawn = s.tree()
    assert drawn.replace("\n", "").isprintable()
    assert len(drawn.splitlines()) == 2
    assert r"evil\x1b[2J\u202e\nscope x" in drawn


async def test_the_tree_shows_the_runs_and_jobs_that_are_held_and_waited_for() -> None:
    async def charge() -> None:
        await anyio.sleep_forever()

    async def reindex() -> None:
        async with s.job("reindex") as job:
            await job.save("half", done=3, total=6)
            await anyio.sleep_forever()

    async with scope(name="outer", persistence=MemoryStore(), on_exit="cancel") as s:
        for name in ("charges", "duplicate"):
            s.task(charge, once=Once("charge:1", keep=60), name=name)
            s.task(reindex, name=f"{name} job")
            await anyio.wait_all_tasks_blocked()
        tree = s.tree()
        lines = {line.split(" [")[0].strip(): line for line in tree.splitlines()}
        assert "charge (test_tree.py:" in lines["task charges"]
        assert lines["scope outer running charge:1"].startswith("    scope")
        assert lines["task duplicate"].endswith("waits for run 'charge:1'")
        assert lines["task duplicate job"].endswith("waits for job 'reindex'")
        assert ", 3 of 6 (50 %)" in lines["scope outer at job reindex"]
        s.cancel()


async def test_the_tree_shows_how_far_a_resumed_loop_has_come() -> None:
    async def load(row: int) -> None:
        if row == 4:
            await anyio.sleep_forever()

    async def consume() -> None:
        async for row, result in s.resume("rows", load, range(8), limit=1, save_every=0):
            result.unwrap()
            if row == 3:
                at_row_3.set()
                await go_on.wait()

    at_row_3, go_on = anyio.Event(), anyio.Event()
    async with scope(name="outer", persistence=MemoryStore(), on_exit="cancel") as s:
        s.task(consume, name="consumer")
        await at_row_3.wait()
        lines = {line.split(" [")[0].strip(): line for line in s.tree().splitlines()}
        assert lines["task resume rows"].endswith("waits for its loop")
        assert ", 3 of 8 (37 %)" in lines["scope outer at job rows"]
        go_on.set()
        await anyio.wait_all_tasks_blocked()
        lines = {line.split(" [")[0].strip(): line for line in s.tree().splitlines()}
        assert lines["task consumer"].endswith("waits for the next item of 'rows'")
        assert ", 4 of 8 (50 %)" in lines["scope outer at job rows"]
        s.cancel()
