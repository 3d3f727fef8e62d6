"""How a block ends: resources closed whole, errors kept, nothing left that waits for ever."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import pytest
from attrs import define, field

from gogoscope import Scope, TaskCancelled, scope

pytestmark = pytest.mark.anyio


@define
class Closing:
    """A resource that waits while it is closed."""

    seen: list[BaseException | None] = field(factory=list)
    closed: bool = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self.seen.append(error)
        await anyio.sleep(0.001)
        self.closed = True


async def fail(error: Exception) -> None:
    raise error


async def test_rule_4_the_exception_of_the_body_goes_out_when_a_resource_waits_in_its_exit() -> (
    None
):
    resource, error = Closing(), ValueError("of the body")
    with pytest.raises(ValueError, match="of the body") as caught:
        async with scope() as s:
            await s.enter(resource)
            s.task(anyio.sleep_forever)
            await anyio.sleep(0)
            raise error
    assert caught.value is error
    assert resource.seen == [error]
    assert resource.closed


async def test_rule_2_on_exit_cancel_leaves_the_closing_of_resources_alone() -> None:
    resource = Closing()
    async with scope(on_exit="cancel") as s:
        await s.enter(resource)
        task = s.task(anyio.sleep_forever)
        await anyio.sleep(0)
    assert resource.closed
    assert task.done


async def test_rule_2_a_cancel_while_tasks_are_waited_for_leaves_the_closing_alone() -> None:
    resource = Closing()

    async with scope() as s:

        async def stop() -> None:
            await anyio.wait_all_tasks_blocked()
            s.cancel("enough")

        await s.enter(resource)
        lingering = s.task(anyio.sleep_forever)
        s.task(stop)
    assert resource.closed
    assert isinstance((await lingering).error, TaskCancelled)
    assert s.cancel_reason == "enough"


async def test_rule_2_a_cancel_while_tasks_are_waited_for_cancels_streams_too() -> None:
    async def linger(item: int) -> None:
        await anyio.sleep_forever()

    async with scope() as s:

        async def collect() -> None:
            await s.map(linger, range(10), limit=2)

        async def stop() -> None:
            await anyio.wait_all_tasks_blocked()
            s.cancel("enough")

        collecting = s.task(collect)
        s.task(stop)
    assert isinstance((await collecting).error, TaskCancelled)


async def test_rule_4_the_exception_of_the_body_goes_before_the_cut_closing_of_a_resource() -> None:
    resource = Closing()
    with pytest.raises(ValueError, match="of the body"):
        async with scope() as s:
            await s.enter(resource)
            s.cancel("enough")
            raise ValueError("of the body")
    assert not resource.closed, "its clean-up ran in the cancelled body, without a shield"


async def test_rule_5_a_timeout_bounds_the_closing_of_resources_after_a_cancel() -> None:
    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        yield
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        async with scope(timeout=0.01, on_exit="cancel") as s:
            await s.enter(resource())
            s.task(anyio.sleep_forever)
            await anyio.sleep(0)


async def test_rule_2_leaving_waits_for_a_task_that_waits_for_a_map() -> None:
    going_on = anyio.Event()

    async def double(item: int) -> int:
        await going_on.wait()
        return item * 2

    async def let_go() -> None:
        await anyio.wait_all_tasks_blocked()
        going_on.set()

    async with scope() as s:

        async def collect() -> list[int]:
            return [result.unwrap() for result in await s.map(double, range(5), limit=2)]

        async def loop() -> list[int]:
            return [result.unwrap() async for result in s.map(double, range(5), limit=2)]

        tasks = [s.task(collect), s.task(loop)]
        await anyio.wait_all_tasks_blocked()
        s.task(let_go)
    assert [(await task).unwrap() for task in tasks] == [[0, 2, 4, 6, 8]] * 2


async def test_a_map_that_nobody_can_take_from_any_more_ends_with_the_scope() -> None:
    async def linger(item: int) -> None:
        await anyio.sleep_forever()

    async def handed_over() -> None:
        aiter(mapped)

    async with scope() as s:
        mapped = s.map(linger, range(5))
        s.task(handed_over)


async def test_a_cancellation_in_the_closing_does_not_hide_the_unseen_errors() -> None:
    resource = Closing()
    with pytest.raises(ValueError, match="of the body") as caught:
        async with scope() as s:
            await s.enter(resource)
            await s.task(fail, KeyError("unseen")).wait()
            raise ValueError("of the body")
    assert "unseen" in caught.value.__notes__[0]
    assert resource.closed


async def test_two_tasks_may_take_from_one_map() -> None:
    async def double(item: int) -> int:
        await anyio.sleep(0.001 * (item % 2))
        return item * 2

    async with scope() as s:
        results = aiter(s.map(double, range(20), limit=2))

        async def consume() -> list[int]:
            taken: list[int] = []
            while (result := await anext(results, None)) is not None:
                taken.append(result.unwrap())
            return taken

        one, two = await s.all(s.task(consume), s.task(consume))
    assert sorted([*one.unwrap(), *two.unwrap()]) == list(range(0, 40, 2))


async def test_rule_2_a_map_in_the_clean_up_of_an_item_is_run_to_its_end() -> None:
    undone: list[list[int]] = []

    async def undo(number: int) -> int:
        await anyio.sleep(0)
        return number

    async def work(item: int) -> None:
        if item == 0:
            return
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                undone.append([result.unwrap() for result in await s.map(undo, range(3))])
                undone.append([result.unwrap() async for result in s.map(undo, range(3), 2)])

    async with scope() as s:
        async for _ in s.map(work, range(2), limit=2):
            await anyio.wait_all_tasks_blocked()
            break
    assert undone == [[0, 1, 2], [0, 1, 2]]


async def test_rule_2_a_cancel_ends_the_block_normally_though_clean_up_passes_the_timeout() -> None:
    async def clean_up_slowly() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)

    async with scope(timeout=0.05) as s:

        async def stop() -> None:
            s.cancel("enough")

        s.task(clean_up_slowly)
        await anyio.lowlevel.checkpoint()
        s.task(stop)
    assert s.cancel_reason == "enough"


async def test_a_map_that_its_scope_cuts_off_does_not_look_complete_to_others() -> None:
    async def linger(item: int) -> None:
        await anyio.sleep_forever()

    async with scope() as outer:
        async with scope() as inner:

            async def collect() -> object:
                return await inner.map(linger, range(2))

            async def loop() -> object:
                return [result async for result in inner.map(linger, range(2))]

            tasks = [outer.task(collect), outer.task(loop)]
            await anyio.wait_all_tasks_blocked()
        for task in tasks:
            assert isinstance((await task).error, TaskCancelled)


class FalsyError(Exception):
    def __len__(self) -> int:
        return 0


async def test_rule_4_an_exception_that_is_false_is_an_exception_like_others() -> None:
    with pytest.raises(FalsyError):
        async with scope():
            raise FalsyError
    with pytest.raises(FalsyError):
        async with scope() as s:

            @asynccontextmanager
            async def resource() -> AsyncIterator[None]:
                yield
                raise FalsyError

            await s.enter(resource())
    with pytest.raises(FalsyError):
        async with scope(fail_fast=True) as s:
            s.task(fail, FalsyError())


async def test_rule_2_what_the_closing_of_a_resource_begins_ends_with_the_scope() -> None:
    kept: list[object] = []
    ended: list[str] = []

    async def work(item: int) -> int:
        return item

    async def finish() -> None:
        await anyio.sleep(0)
        ended.append("task")

    async with scope() as s:

        @asynccontextmanager
        async def resource() -> AsyncIterator[None]:
            yield
            results = aiter(s.map(work, range(1000), limit=2))
            kept.append(results)
            await anext(results)
            s.task(finish)

        await s.enter(resource())
    assert ended == ["task"]


async def test_rule_12_a_map_that_is_left_starts_no_further_item() -> None:
    called: list[int] = []
    going_on = anyio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        with anyio.CancelScope(shield=True):
            await going_on.wait()
        yield 2

    async def work(item: int) -> None:
        called.append(item)

    async with scope() as s:
        results = s.map(work, source())
        await anext(aiter(results))
        await anyio.wait_all_tasks_blocked()
        await results.aclose()
        going_on.set()
    assert called == [1]


async def test_rule_12_an_iterator_of_a_map_may_be_looped_over() -> None:
    async def work(item: int) -> int:
        return item

    async with scope() as s:
        results = aiter(s.map(work, range(3)))
        first = await anext(results)
        assert [first.unwrap(), *[result.unwrap() async for result in results]] == [0, 1, 2]
        completed = aiter(s.as_completed(work, range(3)))
        one, _ = await anext(completed)
        assert sorted([one, *[item async for item, _ in completed]]) == [0, 1, 2]


async def test_rule_4_an_error_that_nobody_reads_after_the_block_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail_late() -> None:
        await anyio.wait_all_tasks_blocked()
        raise ValueError("late")

    async def await_it_beyond_its_block(outer: Scope) -> None:
        async with scope() as inner:
            failing = inner.task(fail_late)
            waiting = outer.task(outer.all, failing, outer.task(anyio.sleep_forever))
            await failing.wait()
        assert "late" not in caplog.text
        waiting.cancel()

    async with scope() as outer:
        await await_it_beyond_its_block(outer)
        outer.cancel()
    gc.collect()  # the cancellation of what awaited it leads to it
    for _ in range(5):
        await anyio.sleep(0)
    assert "late" in caplog.text


async def test_rule_5_a_timeout_that_passes_without_a_checkpoint_is_noted() -> None:
    with pytest.raises(TimeoutError):
        async with scope(timeout=0.001):
            time.sleep(0.01)


async def test_a_task_begun_elsewhere_may_wait_for_the_task_that_began_it() -> None:
    seen: list[object] = []

    async def watch() -> None:
        seen.append(await tasks[0])

    async with anyio.create_task_group() as group, scope() as s:

        async def work() -> str:
            group.start_soon(watch)
            await anyio.sleep(0.001)
            return "done"

        tasks = [s.task(work)]
    assert seen == [(None, "done")]


async def test_rule_4_an_error_with_notes_of_another_kind_is_an_error_like_others() -> None:
    error = ValueError("odd")
    error.__notes__ = 5  # type: ignore[assignment]
    async with scope() as s:
        err, _ = await s.task(fail, error)
    assert err is error


async def leaf() -> None:
    await anyio.sleep(0)


async def test_rule_2_after_cancel_a_body_that_unwraps_a_task_ends_without_an_exception() -> None:
    resource = Closing()
    async with scope() as s:
        await s.enter(resource)
        s.cancel("stop")
        (await s.task(leaf)).unwrap()
    assert s.cancel_reason == "stop"
    assert resource.seen == [None]


async def test_rule_2_after_cancel_a_task_that_unwraps_another_is_cancelled_too() -> None:
    async with scope() as s:

        async def stop_and_ask() -> None:
            s.cancel("stop")
            (await s.task(leaf)).unwrap()

        task = s.task(stop_and_ask)
    assert task.state == "cancelled"
    assert repr((await task).error) == repr(TaskCancelled("stop"))


async def test_rule_2_a_ticker_that_is_cancelled_between_its_ticks_is_no_error() -> None:
    for _ in range(30):
        async with scope(on_exit="cancel") as s:
            s.every(0.0005, leaf)
            await anyio.sleep(0.002)


async def test_a_task_of_one_that_was_cancelled_by_itself_is_an_error_as_before() -> None:
    async with scope() as s:
        cancelled = s.task(anyio.sleep_forever)
        cancelled.cancel("not needed")

        async def ask() -> None:
            (await cancelled).unwrap()

        err, _ = await s.task(ask)
        assert isinstance(err, TaskCancelled)


async def test_starting_a_task_in_another_thread_fails_and_the_block_ends() -> None:
    async with scope() as s:
        err, _ = await s.thread(lambda: s.task(leaf))
        assert err is not None


async def test_a_stream_that_is_forgotten_in_another_thread_is_closed_by_its_block() -> None:
    import gc
    import threading

    async def endless() -> AsyncIterator[int]:
        while True:
            await anyio.sleep(0)
            yield 1

    async def number(value: int) -> int:
        return value

    def forget(those: list[object]) -> None:
        those.clear()
        gc.collect()

    with anyio.fail_after(5):
        async with scope() as s:
            completed: list[Any] = [s.as_completed(number, endless(), limit=3)]
            await anext(aiter(completed[0]))
            thread = threading.Thread(target=forget, args=[completed])
            thread.start()
            thread.join()


def shown(error: BaseException) -> list[str]:
    """Return the errors that a traceback shows, the first one first."""
    names = [type(error).__name__]
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return names if earlier is None else shown(earlier) + names


async def fail_while_handling() -> None:
    try:
        raise KeyError
    except KeyError:
        raise ValueError  # noqa: B904 - as users do


async def fail_hiding() -> None:
    try:
        raise KeyError
    except KeyError:
        raise ValueError from None


async def fail_for_a_cause() -> None:
    try:
        raise KeyError
    except KeyError as cause:
        raise ValueError from cause


@asynccontextmanager
async def closing_with(fail: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await fail()


async def by_a_task(fail: Callable[[], Awaitable[None]]) -> None:
    async with scope(fail_fast=True) as s:
        s.task(fail)
        await anyio.sleep_forever()


async def by_a_task_that_is_awaited(fail: Callable[[], Awaitable[None]]) -> None:
    async with scope() as s:
        await s.call(fail)


async def by_a_resource(fail: Callable[[], Awaitable[None]]) -> None:
    async with scope() as s:
        await s.enter(closing_with(fail))


async def by_a_resource_of_a_lock(fail: Callable[[], Awaitable[None]]) -> None:
    async with scope() as s, s.lock("stock") as locked:
        await locked.enter(closing_with(fail))


async def by_a_resource_of_a_term(fail: Callable[[], Awaitable[None]]) -> None:
    async with scope() as s, s.leader("stock") as term:
        await term.enter(closing_with(fail))


WAYS = [
    by_a_task,
    by_a_task_that_is_awaited,
    by_a_resource,
    by_a_resource_of_a_lock,
    by_a_resource_of_a_term,
]


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (fail_while_handling, ["KeyError", "ValueError"]),
        (fail_for_a_cause, ["KeyError", "ValueError"]),
        (fail_hiding, ["ValueError"]),
    ],
)
async def test_rule_4_an_error_that_leaves_a_block_shows_what_it_was_raised_in(
    leave: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    fail: Callable[[], Awaitable[None]],
    expected: list[str],
) -> None:
    with pytest.raises(ValueError) as caught:
        await leave(fail)
    assert shown(caught.value) == expected


async def test_rule_4_an_error_of_the_closing_shows_that_of_the_body() -> None:
    async def close() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        async with scope() as s:
            await s.enter(closing_with(close))
            raise KeyError
    assert shown(caught.value) == ["KeyError", "ValueError"]
