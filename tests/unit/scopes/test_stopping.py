"""Stopping gracefully: what does not start any more, what may still end, and what comes last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Self

import anyio
import anyio.from_thread
import pytest

from gogoscope import Ok, Scope, TaskCancelled, scope

pytestmark = pytest.mark.anyio


class Answer:
    """A request that takes a while."""

    def __init__(self) -> None:
        self.given = False
        self.cut = False

    async def __call__(self) -> str:
        try:
            await anyio.sleep(0.05)
        except BaseException:
            self.cut = True
            raise
        self.given = True
        return "answered"


async def test_stopping_is_set_for_a_child_by_its_parent_and_not_the_other_way() -> None:
    async with scope() as s, s.child() as first, s.child() as second, second.child() as inner:
        first.stopping.set()
        assert first.stopping.is_set()
        assert not s.stopping.is_set()
        second.stopping.set()
        assert inner.stopping.is_set()
        assert not s.stopping.is_set()
        assert repr(s.stopping) == "<s.stopping, not set>"
        s.stopping.set()
        assert repr(inner.stopping) == "<s.stopping, set>"
        async with s.child() as late:
            assert late.stopping.is_set()


async def test_a_wait_for_stopping_ends_whichever_scope_around_is_stopped() -> None:
    ended: list[str] = []

    async def watch(name: str, waiting: Scope) -> None:
        await waiting.stopping.wait()
        ended.append(name)

    with anyio.fail_after(5):
        async with scope() as s, s.child() as child, s.lock("k") as locked:
            s.task(watch, "s", s)
            s.task(watch, "child", child)
            s.task(watch, "locked", locked)
            await anyio.wait_all_tasks_blocked()
            child.stopping.set()
            await anyio.wait_all_tasks_blocked()
            assert ended == ["child"]
            s.stopping.set()
            await s.stopping.wait()
    assert sorted(ended) == ["child", "locked", "s"]
    assert s.stopping.statistics().tasks_waiting == 0


async def test_stopping_may_not_be_set_in_another_thread() -> None:
    refused: list[RuntimeError] = []

    def interfere() -> None:
        try:
            s.stopping.set()
        except RuntimeError as error:
            refused.append(error)

    async with scope() as s:
        waiting = s.task(s.stopping.wait)
        await anyio.wait_all_tasks_blocked()
        thread = threading.Thread(target=interfere)
        thread.start()
        thread.join()
        assert not s.stopping.is_set()
        await anyio.to_thread.run_sync(anyio.from_thread.run_sync, s.stopping.set)
        assert (await waiting).error is None
    assert "anyio.from_thread.run_sync(s.stopping.set)" in str(refused[0])


async def test_stop_waits_for_the_other_tasks_and_then_cancels() -> None:
    answer = Answer()
    async with scope() as s:
        request = s.task(answer)
        stubborn = s.task(anyio.sleep_forever)
        with anyio.fail_after(5):
            await s.stop(grace=0.6)
        assert s.stopping.is_set()
        assert (await request) == Ok(None, "answered")
        assert isinstance((await stubborn).error, TaskCancelled)
        refused = await s.task(answer)
        assert isinstance(refused.error, TaskCancelled)
    assert s.cancel_reason == "the scope was stopped"


async def test_stop_in_the_body_lets_it_clean_up_and_does_not_take_longer_than_the_tasks() -> None:
    done: list[str] = []

    class Pool:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            await anyio.sleep(0)
            done.append("closed")

    with anyio.fail_after(5):
        async with scope() as s:
            await s.enter(Pool())
            answer = Answer()
            s.task(answer)
            async with s.child():
                await s.stop(grace=60)
                assert answer.given
                await anyio.sleep(0)
                done.append("child")
            await anyio.sleep(0)
            done.append("body")
    assert done == ["child", "body", "closed"]


async def stop_from_a_task(s: Scope) -> None:
    await s.stop(grace=60)


async def stop_from_a_child(s: Scope) -> None:
    async with s.child() as child:
        await child.task(stop_from_a_task, s)


async def stop_from_a_lock(s: Scope) -> None:
    async with s.lock("k"):
        await s.stop(grace=60)


async def stop_twice(s: Scope) -> None:
    s.task(stop_from_a_task, s)
    await s.stop(grace=60)


@pytest.mark.parametrize(
    "stop", [stop_from_a_task, stop_from_a_child, stop_from_a_lock, stop_twice]
)
@pytest.mark.parametrize("concurrency", [None, 1])
async def test_stop_does_not_wait_for_what_it_is_called_in(
    stop: Callable[[Scope], Awaitable[None]], concurrency: int | None
) -> None:
    answer = Answer()
    with anyio.fail_after(5):
        async with scope(concurrency=concurrency) as s:
            stopping = s.task(stop, s)
            s.task(answer)
            await anyio.sleep_forever()
    assert answer.given
    assert isinstance((await stopping).error, TaskCancelled)


async def test_stop_in_a_child_in_the_body_ends_the_tasks_of_both_in_time() -> None:
    answers = [Answer(), Answer()]
    with anyio.fail_after(5):
        async with scope() as s, s.lock("k") as locked, s.child() as child:
            for where, answer in zip((locked, child), answers, strict=True):
                where.task(answer)
                where.task(anyio.sleep_forever)
            await s.stop(grace=0.6)
            assert all(answer.given for answer in answers)
            assert len(child._works) == len(locked._works) == 0
            await anyio.sleep(0)
        assert child.cancel_reason is None


async def test_stop_in_a_task_waits_for_the_tasks_of_children_and_for_no_body() -> None:
    answers = [Answer(), Answer(), Answer()]

    async def serve(s: Scope) -> None:
        async with s.child() as child:
            child.task(answers[0])

    async def stop(s: Scope) -> None:
        async with s.child() as child:
            child.task(answers[1])
            await s.stop(grace=60)

    with anyio.fail_after(5):
        async with scope() as s:
            s.task(serve, s)
            s.task(stop, s)
            s.task(stop, s)
            async with s.child() as child, child.child() as inner:
                inner.task(answers[2])
                await anyio.sleep_forever()
    assert all(answer.given for answer in answers)


async def test_stop_from_another_thread_is_refused_before_anything_changes() -> None:
    refused: list[RuntimeError] = []

    async def stop_elsewhere(s: Scope) -> None:
        try:
            await s.stop()
        except RuntimeError as error:
            refused.append(error)

    async with scope() as s:
        thread = threading.Thread(target=anyio.run, args=[stop_elsewhere, s])
        thread.start()
        thread.join()
        assert not s.stopping.is_set()
        task = s.thread(lambda: anyio.from_thread.run(s.stop, 10))
        with anyio.fail_after(5):
            await task.wait()
            await anyio.sleep_forever()
    assert "anyio.from_thread" in str(refused[0])


async def test_stop_from_outside_waits_until_the_tasks_have_ended() -> None:
    answer = Answer()
    opened: list[Scope] = []
    async with anyio.create_task_group() as group:

        async def serve() -> None:
            async with scope() as s:
                opened.append(s)
                s.task(answer)
                s.task(anyio.sleep_forever)
                await anyio.sleep_forever()

        group.start_soon(serve)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            await opened[0].stop(grace=0.6)
        assert answer.given
        assert len(opened[0]._works) == 0
    with anyio.fail_after(1):
        await opened[0].stop()


@pytest.mark.parametrize("child", [False, True], ids=["another", "a child"])
async def test_stop_waits_for_nothing_of_the_scopes_that_its_caller_runs_in(child: bool) -> None:
    stopped: list[bool] = []

    async with scope() as own:
        longer = own.task(anyio.sleep_forever)
        async with own.child() if child else scope() as s:

            async def stop() -> None:
                await s.stop(grace=0.01)
                stopped.append(own.stopping.is_set() or longer.done)
                longer.cancel()

            s.task(anyio.sleep_forever)
            own.task(stop)
            with anyio.fail_after(5):
                await anyio.sleep_forever()
        with anyio.move_on_after(5):
            await longer.wait()
        own.cancel()
    assert stopped == [False]


async def test_stop_in_a_child_that_another_scope_opened_does_not_wait_for_its_caller() -> None:
    async def stop(child: Scope, s: Scope) -> None:
        async with child:
            await s.stop(grace=60)

    with anyio.fail_after(5):
        async with scope() as other, scope() as s:
            other.task(stop, s.child(), s)
            await anyio.sleep_forever()


async def beside_the_body_a_task_is_awaited(s: Scope) -> None:
    await s.task(anyio.sleep_forever)


async def beside_the_body_a_child_is_open(s: Scope) -> None:
    async with s.child() as child:
        child.task(anyio.sleep_forever)


async def beside_the_body_another_scope_awaits_a_task(s: Scope) -> None:
    async with scope() as other:
        other.task(beside_the_body_a_task_is_awaited, s)


BESIDE = pytest.mark.parametrize(
    "beside",
    [
        beside_the_body_a_task_is_awaited,
        beside_the_body_a_child_is_open,
        beside_the_body_another_scope_awaits_a_task,
    ],
)


@BESIDE
async def test_stop_in_the_body_ends_the_work_that_runs_in_a_task_group_of_it(
    beside: Callable[[Scope], Coroutine[Any, Any, None]],
) -> None:
    with anyio.fail_after(5):
        async with scope() as s, anyio.create_task_group() as group:
            group.start_soon(beside, s)
            await anyio.wait_all_tasks_blocked()
            await s.stop(grace=0.01)


@BESIDE
async def test_cancelling_ends_the_work_in_a_task_group_that_is_open_longer_than_the_body(
    beside: Callable[[Scope], Coroutine[Any, Any, None]],
) -> None:
    async def cancel(s: Scope) -> None:
        await anyio.wait_all_tasks_blocked()
        s.cancel("enough")

    with anyio.fail_after(5):
        async with scope() as s:
            group = await s.enter(anyio.create_task_group())
            group.start_soon(beside, s)
            s.task(cancel, s)
    assert s.cancel_reason == "enough"


async def test_stop_does_not_wait_for_results_that_the_caller_is_to_take() -> None:
    async def number(item: int) -> int:
        return item

    with anyio.fail_after(5):
        async with scope() as s:
            async for result in s.map(number, range(1000), limit=2):
                assert result.error is None
                await s.stop(grace=60)
                break


async def test_stop_checks_its_grace_before_it_does_anything() -> None:
    async with scope() as s:
        with pytest.raises(ValueError, match="grace"):
            await s.stop(grace=-1)
        assert not s.stopping.is_set()


async def test_every_ends_when_its_scope_is_stopping_and_lets_its_tick_end() -> None:
    ticks: list[str] = []

    async def tick() -> None:
        ticks.append("began")
        await anyio.sleep(0.05)
        ticks.append("ended")

    with anyio.fail_after(5):
        async with scope() as s, s.child() as child, child.lock("k") as locked:
            idle = [where.every(3600, partial(anyio.sleep, 0)) for where in (s, child, locked)]
            busy = child.every(3600, tick)
            await anyio.wait_all_tasks_blocked()
            s.stopping.set()
            late = child.every(3600, tick)
            for ticking in (*idle, busy, late):
                assert (await ticking) == Ok(None, None)
    assert ticks == ["began", "ended"]


async def test_a_tick_that_waits_for_its_slot_does_not_start_any_more() -> None:
    ticks: list[int] = []

    async def tick() -> None:
        ticks.append(1)

    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            answer = anyio.Event()
            s.task(answer.wait)
            await anyio.wait_all_tasks_blocked()
            ticking = s.every(3600, tick)
            await anyio.wait_all_tasks_blocked()
            s.stopping.set()
            assert (await ticking) == Ok(None, None)
            answer.set()
    assert ticks == []


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_every_goes_on_after_an_error_that_on_error_takes(virtual_clock: Any) -> None:
    errors: list[str] = []
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks % 2:
            raise ValueError(str(ticks))

    async with scope() as s:
        ticking = s.every(1, tick, on_error=lambda error: errors.append(str(error)))
        await anyio.sleep(4.5)
        s.stopping.set()
        assert (await ticking) == Ok(None, None)
    assert errors == ["1", "3", "5"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_goes_on_after_a_tick_that_cancelled_itself(anyio_backend: str) -> None:
    """By asyncio's own means, or by awaiting a future that was cancelled."""
    errors: list[Exception] = []
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        task = asyncio.current_task()
        assert task is not None
        if ticks == 1:
            task.cancel()
        elif ticks == 2:
            asyncio.get_running_loop().call_soon(task.cancel)
            await anyio.sleep(60)
        elif ticks == 3:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        else:
            s.stopping.set()

    with anyio.fail_after(5):
        async with scope() as s:
            ticking = s.every(0.01, tick, on_error=errors.append)
            assert (await ticking) == Ok(None, None)
    assert [type(error) for error in errors] == [TaskCancelled]  # of the future
    assert ticks == 4


async def test_the_observer_of_the_scope_gets_the_error_that_ends_every_and_no_log_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = []

    async def tick() -> None:
        raise ValueError("one bad tick")

    async with scope(on_error=errors.append) as s:
        s.every(3600, tick)
        await anyio.wait_all_tasks_blocked()
        assert [str(error) for error in errors] == ["one bad tick"]
    assert caplog.text == ""


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_error_of_a_tick_is_not_lost_if_on_error_fails(virtual_clock: Any) -> None:
    async def tick() -> None:
        raise ValueError("of the tick")

    def fail(error: Exception) -> None:
        raise KeyError("of the observer")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            s.every(1, tick, on_error=fail)
            await anyio.sleep(1.5)
            s.stopping.set()
    assert [str(error) for error in caught.value.exceptions] == ["of the tick"] * 2


async def test_on_error_of_every_must_be_a_function() -> None:
    async with scope() as s:
        with pytest.raises(TypeError, match="on_error"):
            s.every(1, anyio.sleep_forever, on_error=3)  # type: ignore[arg-type]


async def test_the_end_of_every_by_an_error_is_logged_at_once_if_nobody_awaits_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def tick() -> None:
        raise ValueError("one bad tick")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            kept = s.every(3600, tick)
            s.every(3600, tick)
            await anyio.wait_all_tasks_blocked()
            assert [record.message.count("was not handled") for record in caplog.records] == [1, 1]
            assert caplog.text.count("Traceback") == 2
            assert kept.state == "failed"
            awaited = s.task(lambda: s.every(3600, tick))
            assert isinstance((await awaited).unwrap().error, ValueError)
    assert len(caught.value.exceptions) == len(caplog.records) == 2
