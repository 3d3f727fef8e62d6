"""Rule 12: scopes inside scopes, and the resources of a scope."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any

import anyio
import pytest

from gogoscope import Scope, ScopeClosedError, Task, TaskCancelled, scope

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def test_rule_12_a_child_inherits_and_shares() -> None:
    calls = 0

    async def flaky() -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ValueError
        return calls

    async with scope(retry=2, concurrency=1, persistence="memory://child") as s:
        await s.cache.set("key", 1)
        async with s.child(name="inner") as inner:
            assert inner.name == "inner"
            assert (await inner.task(flaky)).unwrap() == 2
            assert await inner.cache.get("key") == 1
            assert inner._slots is s._slots
            assert not inner.stopping.is_set()
            async with inner.child(retry=False, concurrency=2) as own:
                assert isinstance((await own.task(flaky)).error, ValueError)
                assert own._slots is not s._slots
    with pytest.raises(ScopeClosedError):
        s.child()


async def test_rule_12_a_child_inside_a_task_lends_the_slot_while_its_block_ends() -> None:
    async def parent(s: Scope) -> None:
        async with s.child() as inner:
            inner.task(give, 1)
            inner.task(give, 2)

    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            for _ in range(3):
                s.task(parent, s)


async def test_rule_12_cancelling_a_child_leaves_its_parent_alone() -> None:
    async with scope() as s:
        sibling = s.task(anyio.sleep, 0.01)
        async with s.child() as inner:
            inner.task(anyio.sleep_forever)
            inner.cancel("enough")
        assert (await sibling).error is None
    assert s.cancel_reason is None


async def test_rule_12_entered_resources_are_left_in_reverse_after_the_last_task() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        events.append(f"enter {name}")
        try:
            yield name
        finally:
            events.append(f"leave {name}")

    @asynccontextmanager
    async def with_task_group() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as group:
            yield group

    async def work() -> None:
        await anyio.sleep(0.01)
        events.append("work")

    async with scope() as s:
        assert await s.enter(resource("a")) == "a"
        await s.enter(with_task_group())
        await s.enter(resource("b"))
        s.task(work)
    assert events == ["enter a", "enter b", "work", "leave b", "leave a"]


async def test_rule_12_resources_see_the_exception_and_may_replace_it() -> None:
    seen: list[type] = []

    class Resource:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *details: object) -> bool:
            seen.append(type(details[1]))
            return isinstance(details[1], KeyError)

    async with scope() as s:
        await s.enter(Resource())
        raise KeyError("swallowed")
    with pytest.raises(ValueError, match="not swallowed"):
        async with scope() as s:
            await s.enter(Resource())
            raise ValueError("not swallowed")
    assert seen == [KeyError, ValueError]


async def test_rule_12_the_blocks_of_scopes_inside_may_be_entered_like_other_resources() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            events.append(f"close {name}")

    async def work(name: str) -> None:
        await anyio.wait_all_tasks_blocked()
        events.append(f"work of {name}")

    async with scope() as s:
        await s.enter(resource("first"))
        locked = await s.enter(s.lock("entered"))
        await s.enter(resource("second"))
        stack = await s.enter(AsyncExitStack())
        child = await stack.enter_async_context(s.child())
        assert (await s.task(give, 1)).unwrap() == 1
        assert (await locked.task(give, 2)).unwrap() == 2
        child.task(work, "child")
        s.task(work, "scope")
    assert sorted(events[:2]) == ["work of child", "work of scope"]
    assert events[2:] == ["close second", "close first"]
    async with scope() as s:
        assert await s.acquire_lock("entered", 5) is not None


@pytest.mark.parametrize("how", ["cancel", "fail_fast", "timeout", "body"])
async def test_rule_12_a_scope_that_is_cancelled_ends_the_tasks_of_a_child_that_it_entered(
    how: str,
) -> None:
    async def fail() -> None:
        await anyio.wait_all_tasks_blocked()
        if how == "cancel":
            s.cancel("enough")
        elif how == "fail_fast":
            raise KeyError(how)

    expected = {"timeout": TimeoutError, "fail_fast": KeyError, "body": ValueError}.get(how)
    tasks: list[Task[None]] = []
    with anyio.fail_after(20), pytest.raises(expected) if expected else nullcontext():
        async with scope(fail_fast=True, timeout=0.1 if how == "timeout" else None) as s:
            child = await s.enter(s.child())
            tasks.append(child.task(anyio.sleep_forever))
            s.task(fail)
            if how == "body":
                raise ValueError(how)
    assert isinstance((await tasks[0]).error, TaskCancelled)


@pytest.mark.parametrize("how", ["fail_fast", "timeout"])
async def test_rule_12_the_end_of_a_child_that_was_entered_ends_the_scope(how: str) -> None:
    async def fail() -> None:
        await anyio.wait_all_tasks_blocked()
        if how == "fail_fast":
            raise KeyError(how)

    expected = {"timeout": TimeoutError, "fail_fast": KeyError}[how]
    tasks: list[Task[None]] = []
    with anyio.fail_after(20), pytest.raises(expected):
        async with scope() as s:
            limit = 0.1 if how == "timeout" else None
            child = await s.enter(s.child(fail_fast=True, timeout=limit))
            child.task(fail)
            tasks.append(s.task(anyio.sleep_forever))
    assert isinstance((await tasks[0]).error, TaskCancelled)


async def test_rule_12_a_block_that_no_resource_closes_is_to_be_left_first() -> None:
    closed = False

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        nonlocal closed
        yield
        closed = True

    with pytest.raises(RuntimeError, match="reverse order was kept"):
        async with scope(name="outer") as s:
            await s.enter(resource())
            inner = s.child(name="inner")
            await inner.__aenter__()
            with pytest.raises(RuntimeError, match="in the reverse order of entering them"):
                await s.__aexit__(None, None, None)
            assert closed
            await inner.__aexit__(None, None, None)
            raise RuntimeError("the reverse order was kept")


async def test_rule_12_resources_are_entered_from_the_body_only() -> None:
    async def elsewhere(s: Scope) -> None:
        await s.enter(scope())

    async with scope() as s:
        err, _ = await s.task(elsewhere, s)
        assert isinstance(err, RuntimeError)
        async with scope():
            with pytest.raises(RuntimeError, match="only in the body"):
                await s.enter(scope())
    with pytest.raises(ScopeClosedError):
        await s.enter(scope())
