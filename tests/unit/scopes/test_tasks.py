"""Rules 1, 5, 6 and 9: tasks, results and timeouts, cancelling them, wrong functions."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from gogoscope import Err, Ok, Task, TaskCancelled, scope

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def fail(error: Exception) -> None:
    await anyio.sleep(0)
    raise error


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


async def test_rule_6_the_result_of_a_cancelled_task_has_the_reason() -> None:
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
