"""Rules 1 to 10 of the scope, each test named after its rule."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import itertools
import logging
import math
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from gogoscope import (
    Err,
    Ok,
    Retry,
    Scope,
    ScopeClosedError,
    Task,
    TaskCancelled,
    current_scope,
    open_persistence,
    scope,
)
from gogoscope.events import ErrorUnseen, Event

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def fail(error: Exception) -> None:
    await anyio.sleep(0)
    raise error


async def cancelled_outside(fn: Any) -> None:
    """Run ``fn(started)`` and cancel it from outside once it says that it started."""
    async with anyio.create_task_group() as group:
        started = anyio.Event()
        group.start_soon(fn, started)
        await started.wait()
        group.cancel_scope.cancel()


# Rule 1: results


async def test_rule_1_a_task_starts_whether_or_not_it_is_awaited() -> None:
    started = anyio.Event()

    async def work() -> None:
        started.set()

    async with scope() as s:
        s.task(work)
        assert not started.is_set()
        with anyio.fail_after(5):
            await started.wait()


async def test_rule_1_a_result_is_a_tuple_that_matches_and_unwraps() -> None:
    async with scope() as s:
        err, value = await s.task(give, 3)
        assert (err, value) == (None, 3)
        result = await s.task(give, 4)
        assert result == Ok(None, 4)
        assert result.unwrap() == 4
        match await s.task(fail, ValueError("no")):
            case Err(ValueError() as error):
                assert str(error) == "no"
            case _:
                pytest.fail("no match")
        with pytest.raises(ValueError, match="no"):
            (await s.task(fail, ValueError("no"))).unwrap()


async def test_rule_1_any_number_of_awaits_give_the_same_result() -> None:
    async with scope() as s:
        task = s.task(give, 3)
        results: list[object] = []

        async def look() -> None:
            results.append(await task)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(look)
        results.append(await task)
        assert len(results) == 6
        assert all(result is results[0] for result in results)


async def test_rule_1_an_error_has_a_note_with_task_and_scope() -> None:
    async with scope(name="orders") as s:
        err, _ = await s.task(fail, ValueError("no"), name="charge")
        assert err is not None
        assert err.__notes__ == ["in task 'charge' of scope 'orders'"]


async def test_rule_1_the_scope_is_named_after_its_function() -> None:
    async with scope() as s:
        assert s.name.endswith("test_rule_1_the_scope_is_named_after_its_function")
        assert __name__ in s.name
        assert s.task(give, 1).name == "give"
        assert s.task(functools.partial(give, 1)).name == "give"


# Rule 2: the end of the block


async def test_rule_2_leaving_waits_for_every_task() -> None:
    async with scope() as s:
        task = s.task(anyio.sleep, 0.02)
        inner = s.task(lambda: s.task(anyio.sleep, 0.03))
    assert task.done
    assert inner.done


async def test_rule_2_an_exception_in_the_body_cancels_the_tasks_and_goes_out() -> None:
    tasks: list[Task[None]] = []
    with pytest.raises(KeyError, match="body"):
        async with scope() as s:
            tasks.append(s.task(anyio.sleep_forever))
            await anyio.sleep(0)
            raise KeyError("body")
    err, _ = await tasks[0]
    assert isinstance(err, TaskCancelled)
    assert "KeyError" in str(err)


async def test_rule_2_cancel_ends_the_block_without_an_exception_and_tells_why() -> None:
    async with scope() as s:
        task = s.task(anyio.sleep_forever)
        s.cancel("enough")
        await anyio.sleep_forever()
    assert s.cancel_reason == "enough"
    assert (await task).error.args == ("enough",)  # type: ignore[union-attr]


async def test_rule_2_on_exit_cancel_cancels_what_still_runs() -> None:
    async with scope(on_exit="cancel") as s:
        task = s.task(anyio.sleep_forever)
        await anyio.sleep(0)
    assert isinstance((await task).error, TaskCancelled)


async def test_rule_2_a_finally_block_ends_before_the_scope_does() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            ended = True

    async with scope() as s:
        s.task(work)
        await anyio.sleep(0.01)
        s.cancel()
    assert ended


async def test_rule_2_a_worker_thread_is_waited_for() -> None:
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(5)
        ended.set()

    async with scope() as s:
        s.thread(work)
        while not started.is_set():
            await anyio.sleep(0.001)
        s.cancel()
        release.set()
    assert ended.is_set()


async def test_rule_2_a_task_may_start_tasks_while_the_block_ends() -> None:
    results: list[int] = []

    async def parent(s: Scope) -> None:
        await anyio.sleep(0.01)
        results.append((await s.task(give, 7)).unwrap())

    async with scope() as s:
        s.task(parent, s)
    assert results == [7]


# Rule 3: siblings


async def test_rule_3_a_failed_task_does_not_cancel_its_siblings() -> None:
    async with scope() as s:
        sibling = s.task(anyio.sleep, 0.02)
        err, _ = await s.task(fail, ValueError("no"))
        assert isinstance(err, ValueError)
    assert (await sibling).error is None


async def test_rule_3_fail_fast_cancels_the_scope_and_raises_the_first_error() -> None:
    error = ValueError("first")
    tasks: list[Task[None]] = []
    with pytest.raises(ValueError, match="first") as caught:
        async with scope(fail_fast=True) as s:
            tasks.append(s.task(anyio.sleep_forever))
            s.task(fail, error)
            await anyio.sleep_forever()
    assert caught.value is error
    assert isinstance((await tasks[0]).error, TaskCancelled)


async def test_rule_3_fail_fast_raises_an_error_that_was_looked_at() -> None:
    with pytest.raises(ValueError, match="seen"):
        async with scope(fail_fast=True) as s:
            err, _ = await s.task(fail, ValueError("seen"))
            assert isinstance(err, ValueError)


# Rule 4: unseen errors


async def test_rule_4_unseen_errors_are_raised_together() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="orders") as s:
            s.task(fail, ValueError("a"))
            s.task(fail, KeyError("b"))
            seen = s.task(fail, OSError("c"))
            await seen
    assert "orders" in str(caught.value)
    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}


async def test_rule_4_looking_later_is_looking() -> None:
    async with scope() as s:
        task = s.task(fail, ValueError("a"))
        await task.wait()
        assert task.done
        await task


async def test_rule_4_waiting_is_not_looking() -> None:
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            await s.task(fail, ValueError("a")).wait()


async def test_rule_4_an_awaiter_that_was_cancelled_has_not_looked() -> None:
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            task = s.task(fail, ValueError("a"))
            with anyio.CancelScope() as attempt:
                attempt.cancel()
                await task.wait()


async def test_rule_4_on_error_of_the_task_goes_before_that_of_the_scope() -> None:
    of_scope: list[Exception] = []
    of_task: list[Exception] = []
    async with scope(on_error=of_scope.append) as s:
        s.task(fail, ValueError("a"))
        s.task(fail, KeyError("b"), on_error=of_task.append)
        await s.task(fail, OSError("looked at"))
    assert [type(error) for error in of_scope] == [ValueError]
    assert [type(error) for error in of_task] == [KeyError]


async def test_rule_4_an_observer_that_fails_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def observer(error: Exception) -> None:
        raise RuntimeError("observer")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(on_error=observer) as s:
            s.task(fail, ValueError("not lost either"))
    assert "not lost either" in str(caught.value.exceptions)
    assert "RuntimeError: observer" in caplog.text


async def test_rule_4_an_observer_that_turns_out_to_be_async_loses_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ExceptionGroup, match="1 error"):
        async with scope(on_error=lambda error: give(1)) as s:
            s.task(fail, ValueError("a"))
    assert "is async" in caplog.text


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class UnspeakableError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("unspeakable")


@pytest.mark.parametrize("retry", [None, Retry(3, delay=0)])
async def test_rule_4_an_error_that_refuses_attributes_is_an_error_like_others(
    retry: Retry | None,
) -> None:
    numbers = itertools.count(1)

    async def work() -> None:
        raise FrozenError(next(numbers))

    async with scope(name="frost") as s:
        task = s.task(work, retry=retry, name="cold")
        await task.wait()
        err, _ = await task
    assert isinstance(err, FrozenError)
    assert err.__notes__ == ["in task 'cold' of scope 'frost'"]
    if retry is not None:
        assert [err.code, getattr(err.__context__, "code", None)] == [3, 2]


async def test_rule_4_an_error_without_a_repr_hides_no_other() -> None:
    with pytest.raises(FrozenError) as caught:
        async with scope() as s:
            await s.task(fail, UnspeakableError()).wait()
            raise FrozenError(1)
    assert "UnspeakableError, whose repr fails" in caught.value.__notes__[0]


async def test_rule_4_a_hundred_are_kept_whole_and_further_ones_counted() -> None:
    with pytest.raises(ExceptionGroup, match="100 errors and 7 more, not kept") as caught:
        async with scope() as s:
            kept = [s.task(fail, ValueError("kept")) for _ in range(100)]
            for task in kept:
                await task.wait()
            counted = [s.task(fail, ValueError("counted")) for _ in range(10)]
            for task in counted:
                await task.wait()
            for task in counted[:3]:
                await task
    assert {str(error) for error in caught.value.exceptions} == {"kept"}


async def test_rule_4_unseen_errors_become_notes_events_and_log_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []
    with pytest.raises(KeyError) as caught:
        async with scope(name="orders", on_event=events.append) as s:
            await s.task(fail, ValueError("lost?")).wait()
            raise KeyError("body")
    assert any("lost?" in note for note in caught.value.__notes__)
    assert [event for event in events if isinstance(event, ErrorUnseen)]
    assert "not looked at" in caplog.text


async def test_rule_4_a_cancellation_from_outside_goes_before_the_group(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caught: list[BaseException] = []

    async def program(started: anyio.Event) -> None:
        try:
            async with scope() as s:
                await s.task(fail, ValueError("lost?")).wait()
                started.set()
                await anyio.sleep_forever()
        except BaseException as error:
            caught.append(error)
            raise

    await cancelled_outside(program)
    assert len(caught) == 1
    assert isinstance(caught[0], anyio.get_cancelled_exc_class())
    assert "not looked at" in caplog.text


async def test_rule_4_the_timeout_goes_before_the_group() -> None:
    with pytest.raises(TimeoutError) as caught:
        async with scope(timeout=0.02) as s:
            s.task(fail, ValueError("lost?"))
            await anyio.sleep_forever()
    assert any("lost?" in note for note in caught.value.__notes__)


async def test_rule_4_an_own_cancel_is_never_unseen() -> None:
    async with scope() as s:
        s.task(anyio.sleep_forever).cancel()
        started = s.task(anyio.sleep_forever)
        await anyio.sleep(0)
        started.cancel()


async def test_rule_4_unseen_errors_are_raised_after_cancel_too() -> None:
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            await s.task(fail, ValueError("a")).wait()
            s.cancel()


# Rule 5: timeouts


async def test_rule_5_the_scope_timeout_cancels_and_raises() -> None:
    tasks: list[Task[None]] = []
    with pytest.raises(TimeoutError, match=r"'orders' took longer than its timeout of 0\.02 s"):
        async with scope(name="orders", timeout=timedelta(milliseconds=20)) as s:
            tasks.append(s.task(anyio.sleep_forever))
            await anyio.sleep_forever()
    assert isinstance((await tasks[0]).error, TaskCancelled)


async def test_rule_5_the_scope_timeout_counts_while_tasks_are_waited_for() -> None:
    with pytest.raises(TimeoutError):
        async with scope(timeout=0.02) as s:
            s.task(anyio.sleep_forever)


async def test_rule_5_a_task_timeout_is_a_value_and_really_cancels() -> None:
    cancelled = anyio.Event()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with scope() as s:
        err, value = await s.task(work, timeout=0.01)
        assert isinstance(err, TimeoutError)
        assert value is None
        assert cancelled.is_set()


async def test_rule_5_a_task_timeout_bounds_all_tries_together() -> None:
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        raise ValueError

    async with scope() as s:
        err, _ = await s.task(work, timeout=0.05, retry=1000)
        assert isinstance(err, TimeoutError)
    assert 0 < tries < 1000


# Rule 6: cancelling a task


async def test_rule_6_cancel_gives_the_reason() -> None:
    async with scope() as s:
        task = s.task(anyio.sleep_forever)
        await anyio.sleep(0)
        task.cancel("enough")
        err, _ = await task
        assert isinstance(err, TaskCancelled)
        assert err.reason == "enough"
        assert task.state == "cancelled"


async def test_rule_6_a_task_cancelled_before_it_started_never_runs() -> None:
    ran = False

    async def work() -> None:
        nonlocal ran
        ran = True

    async with scope() as s:
        task = s.task(work)
        task.cancel()
        assert isinstance((await task).error, TaskCancelled)
    assert not ran


async def test_rule_6_the_last_awaiter_that_is_cancelled_cancels_the_task() -> None:
    async with scope() as s:
        task = s.task(anyio.sleep_forever)
        with anyio.move_on_after(0.01) as attempt:
            await task
        assert attempt.cancelled_caught
        assert isinstance((await task).error, TaskCancelled)


async def test_rule_6_an_awaiter_that_is_cancelled_leaves_the_task_to_the_others() -> None:
    release = anyio.Event()
    results: list[object] = []

    async def work() -> int:
        await release.wait()
        return 5

    async def look(task: Task[int]) -> None:
        results.append(await task)

    async with scope() as s:
        task = s.task(work)
        async with anyio.create_task_group() as group:
            group.start_soon(look, task)
            await anyio.sleep(0)
            with anyio.move_on_after(0.01):
                await task
            release.set()
    assert results == [Ok(None, 5)]


async def test_rule_6_wait_joins_without_cancelling() -> None:
    release = anyio.Event()
    async with scope() as s:
        task = s.task(release.wait)
        with anyio.move_on_after(0.01):
            await task.wait()
        release.set()
        assert (await task).error is None


# Rule 7: what is never a result


async def test_rule_7_a_cancellation_from_outside_goes_on() -> None:
    events: list[str] = []

    async def program(started: anyio.Event) -> None:
        async with scope() as s:
            task = s.task(anyio.sleep_forever)
            started.set()
            try:
                await task
            finally:
                events.append("cancelled")
        events.append("never")

    await cancelled_outside(program)
    assert events == ["cancelled"]


async def test_rule_7_a_stray_cancellation_is_an_error(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("nobody can raise trio.Cancelled by hand")

    async def work() -> None:
        raise anyio.get_cancelled_exc_class()

    async with scope() as s:
        err, _ = await s.task(work)
        assert isinstance(err, TaskCancelled)
        await anyio.sleep(0)


async def test_rule_7_asyncio_cancelling_the_host_task_goes_on(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("tasks of trio have no cancel method")
    import asyncio

    ended = asyncio.Event()

    async def program() -> None:
        async with scope() as s:
            s.task(anyio.sleep_forever)
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

    task = asyncio.create_task(program())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert task.cancelled()


async def test_rule_7_asyncio_cancelling_while_tasks_are_waited_for(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("tasks of trio have no cancel method")
    import asyncio

    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            ended.append("work")

    async def program() -> None:
        async with scope() as s:
            s.task(work)

    task = asyncio.create_task(program())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]


# Rule 8: after the block


async def test_rule_8_a_closed_scope_takes_no_task() -> None:
    s = scope(name="orders")
    with pytest.raises(ScopeClosedError, match="orders"):
        s.task(give, 1)
    async with s:
        pass
    with pytest.raises(ScopeClosedError, match="orders"):
        s.task(give, 1)
    with pytest.raises(ScopeClosedError):
        await s.acquire_lock("key", 1)
    with pytest.raises(ScopeClosedError, match="one block"):
        async with s:
            pass


async def test_rule_8_a_closed_scope_takes_no_child() -> None:
    async with scope() as s:
        late = s.child()
    with pytest.raises(ScopeClosedError):
        s.child()
    with pytest.raises(ScopeClosedError):
        async with late:
            pytest.fail("it began after its parent had ended")


async def test_rule_8_after_cancel_a_task_is_finished_at_once() -> None:
    async with scope() as s:
        s.cancel("enough")
        task = s.task(give, 1)
        assert task.done
        assert (await task).error.args == ("enough",)  # type: ignore[union-attr]


# Rule 9: wrong functions


def plain() -> int:
    return 1


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


async def test_rule_9_a_coroutine_object_is_refused_with_the_right_way() -> None:
    async with scope() as s:
        with pytest.raises(TypeError, match=r"s\.task\(give, \*args\)"):
            s.task(give(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("fn", [generator, async_generator, 3, None])
async def test_rule_9_what_can_be_told_is_refused_at_once(fn: Any) -> None:
    async with scope() as s:
        with pytest.raises(TypeError, match=r"s\.(task|thread)\(fn, \*args\)"):
            s.task(fn)


async def test_rule_9_a_plain_function_is_a_type_error_by_await() -> None:
    async with scope() as s:
        task: Task[Any] = s.task(plain)  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(TypeError, match=r"s\.thread\(fn, \*args\)"):
                await task


async def test_rule_9_a_wrong_function_is_never_retried() -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    async with scope(retry=5) as s:
        with pytest.raises(TypeError):
            await s.task(count)  # type: ignore[arg-type]
    assert calls == 1


async def test_rule_9_a_wrong_function_that_nobody_awaits_is_not_lost() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            s.task(plain)  # type: ignore[arg-type]
    assert isinstance(caught.value.exceptions[0], TypeError)


async def test_rule_9_a_type_error_inside_the_function_is_a_value() -> None:
    async with scope() as s:
        err, _ = await s.task(fail, TypeError("mine"))
        assert isinstance(err, TypeError)


async def test_rule_9_thread_runs_a_plain_function_elsewhere() -> None:
    async with scope() as s:
        err, thread = await s.thread(threading.get_ident)
        assert err is None
        assert thread != threading.get_ident()
        with pytest.raises(TypeError, match=r"s\.task\(fn, \*args\)"):
            s.thread(give, 1)


async def test_rule_9_a_thread_cannot_be_stopped_so_its_timeout_comes_late() -> None:
    release = threading.Event()
    async with scope() as s:
        task = s.thread(release.wait, 5, timeout=0.01)
        await anyio.sleep(0.05)
        assert not task.done
        release.set()
        assert isinstance((await task).error, TimeoutError)


# Rule 10: context and concurrency

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


async def test_rule_10_each_task_has_its_own_context() -> None:
    async def work(value: int) -> int:
        before = variable.get()
        variable.set(value)
        await anyio.sleep(0)
        assert variable.get() == value
        return before

    variable.set(10)
    async with scope() as s:
        tasks = [s.task(work, number) for number in range(5)]
        assert [(await task).unwrap() for task in tasks] == [10] * 5
    assert variable.get() == 10


async def test_rule_10_the_current_scope_is_known_everywhere() -> None:
    async def inside() -> Scope | None:
        return current_scope()

    assert current_scope() is None
    async with scope() as s:
        assert current_scope() is s
        assert (await s.task(inside)).unwrap() is s
        async with scope() as inner:
            assert current_scope() is inner
        assert current_scope() is s
    assert current_scope() is None


async def test_rule_10_concurrency_bounds_running_tasks() -> None:
    running = highest = 0

    async def work() -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await anyio.sleep(0.001)
        running -= 1

    async with scope(concurrency=3) as s:
        for _ in range(20):
            s.task(work)
    assert highest == 3


async def test_rule_10_higher_priority_goes_first_and_equal_ones_in_order() -> None:
    order: list[str] = []
    release = anyio.Event()

    async def work(name: str) -> None:
        order.append(name)

    async with scope(concurrency=1) as s:
        s.task(release.wait)
        await anyio.sleep(0)
        for name, priority in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)]:
            s.task(work, name, priority=priority)
        await anyio.sleep(0)
        release.set()
    assert order == ["b", "d", "a", "c", "e"]


async def test_rule_10_a_task_that_waits_for_a_sibling_lends_its_slot() -> None:
    async def leaf() -> int:
        await anyio.sleep(0)
        return 1

    async def awaits(s: Scope) -> int:
        return (await s.task(leaf)).unwrap()

    async def waits(s: Scope) -> int:
        task = s.task(leaf)
        await task.wait()
        return (await task).unwrap()

    async def awaits_inside_a_task_group(s: Scope) -> int:
        total = 0

        async def one() -> None:
            nonlocal total
            value = (await s.task(awaits, s)).unwrap()
            total += value

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
        return total

    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            tasks = [s.task(fn, s) for fn in (awaits, waits, awaits_inside_a_task_group)]
            assert [(await task).unwrap() for task in tasks] == [1, 1, 2]


async def test_rule_10_tasks_start_in_the_order_they_were_given() -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        order.append(number)
        await anyio.sleep(0)

    async with scope(concurrency=1) as s:
        for number in range(20):
            s.task(work, number)
    assert order == list(range(20))


async def test_rule_10_a_waiter_that_is_cancelled_goes_on_at_once() -> None:
    release = anyio.Event()
    order: list[str] = []

    async def sibling() -> None:
        await release.wait()
        order.append("sibling")

    async def waiter(s: Scope) -> None:
        with anyio.move_on_after(0.01):
            await s.task(sibling).wait()
        order.append("waiter")
        s.task(later)
        release.set()

    async def later() -> None:
        order.append("later")

    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            s.task(waiter, s)
    assert order == ["waiter", "sibling", "later"]


async def test_rule_10_tasks_cancelled_before_they_start_hold_no_slot() -> None:
    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            running = s.task(anyio.sleep, 0.01)
            for _ in range(3):
                s.task(anyio.sleep_forever).cancel()
            waiting = s.task(anyio.sleep_forever)
            await anyio.sleep(0)
            waiting.cancel()
            await running
            assert (await s.task(give, 1)).unwrap() == 1


async def test_rule_10_awaiting_oneself_is_an_error() -> None:
    async def work() -> None:
        await tasks[0]

    async with scope() as s:
        tasks = [s.task(work)]
        err, _ = await tasks[0]
        assert isinstance(err, RuntimeError)
        assert "waits for itself" in str(err)


async def test_rule_10_awaiting_oneself_is_an_error_inside_a_scope_of_its_own_too() -> None:
    async with scope() as s:

        async def work() -> None:
            async with scope(), s.child():
                await tasks[0]

        tasks = [s.task(work)]
        err, _ = await tasks[0]
    assert "waits for itself" in str(err)


async def test_rule_10_awaiting_oneself_does_not_cancel_oneself() -> None:
    async with scope(concurrency=1) as s:

        async def work() -> None:
            try:
                await (tasks[0] if len(tasks) == 1 else s.all(tasks[1]))
            finally:
                await anyio.sleep(0)

        tasks = [s.task(work)]
        await tasks[0].wait()
        tasks.append(s.task(work))
        await tasks[1].wait()
        for task in tasks:
            err, _ = await task
            assert "waits for itself" in str(err)


@pytest.mark.parametrize(
    ("option", "value", "error", "text"),
    [
        ("timeout", -1, ValueError, "timeout must be more than 0 seconds"),
        ("timeout", math.nan, ValueError, "timeout"),
        ("timeout", "1", TypeError, "timeout must be a number of seconds"),
        ("concurrency", 0, ValueError, "concurrency must be 1 or more"),
        ("concurrency", 1.5, TypeError, "concurrency must be an int"),
        ("retry", True, TypeError, "retry must be"),
        ("retry", 0, ValueError, "retry must be 1 or more"),
        ("circuit_breaker", "x", TypeError, "circuit_breaker must be"),
        ("on_exit", "stop", ValueError, "on_exit must be 'wait' or 'cancel'"),
        ("persistence", 3, TypeError, "persistence must be a URL"),
        ("persistence", open_persistence("memory:"), TypeError, "enter it first: async with"),
        ("name", 5, TypeError, "name must be a str"),
        ("on_error", 5, TypeError, "on_error must be a function that is not async"),
        ("on_error", give, TypeError, "on_error must be a function that is not async"),
        ("on_event", 5, TypeError, "on_event must be a function that is not async"),
        ("on_event", give, TypeError, "on_event must be a function that is not async"),
        ("unknown", 1, TypeError, "unknown"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(
    option: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        scope(**{option: value})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("timeout", -1, ValueError),
        ("retry", 0, ValueError),
        ("retry", "3", TypeError),
        ("circuit_breaker", 1, TypeError),
        ("priority", "high", TypeError),
        ("priority", math.nan, ValueError),
        ("name", 5, TypeError),
        ("on_error", give, TypeError),
    ],
)
async def test_bad_options_of_a_task_are_refused_and_take_no_slot(
    option: str, value: Any, error: type[Exception]
) -> None:
    async with scope(concurrency=1) as s:
        with pytest.raises(error, match=option):
            s.task(give, 1, **{option: value})
        if option in ("timeout", "retry", "circuit_breaker"):
            with pytest.raises(error, match=option):
                s.map(give, [1], **{option: value})
        assert (await s.task(give, 1)).unwrap() == 1


async def test_options_are_inherited_and_can_be_switched_off() -> None:
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    async with scope(retry=3) as s:
        await s.task(work, timeout=math.inf)
        assert calls == 3
        calls = 0
        await s.task(work, retry=False)
        assert calls == 1


def test_the_module_logger_is_silent_by_default() -> None:
    assert not logging.getLogger("gogoscope").handlers
