"""Rule 12: where the items of a map come from, and who steps and closes it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from gogoscope import Scope, TaskCancelled, current_scope, scope
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


async def double(number: int) -> int:
    await anyio.sleep(0)
    return 2 * number


def here() -> int:
    return anyio.get_current_task().id


# What may stand around a yield


@contextlib.asynccontextmanager
async def a_scope() -> AsyncIterator[None]:
    async with scope() as s:
        s.task(anyio.sleep_forever)
        yield
        s.cancel()


@contextlib.asynccontextmanager
async def a_timeout() -> AsyncIterator[None]:
    with anyio.fail_after(60):
        yield


@contextlib.asynccontextmanager
async def a_task_group() -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        yield
        group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def a_lock() -> AsyncIterator[None]:
    async with scope(persistence=MemoryStore()) as s, s.lock("of the source"):
        yield


AROUND = pytest.mark.parametrize("around", [a_scope, a_timeout, a_task_group, a_lock])


@AROUND
@pytest.mark.parametrize("limit", [1, 3])
async def test_rule_12_a_source_may_yield_inside_of_blocks(
    around: Callable[[], contextlib.AbstractAsyncContextManager[None]], limit: int
) -> None:
    async def source() -> AsyncIterator[int]:
        async with around():
            for number in range(6):
                await anyio.sleep(0)
                yield number

    async def source_of_blocks() -> AsyncIterator[int]:
        for number in range(6):
            async with around():
                yield number

    async with scope() as s:
        for make in (source, source_of_blocks):
            expected = [2 * number for number in range(6)]
            results = await s.map(double, make(), limit)
            assert [result.value for result in results] == expected
            assert [result.value async for result in s.map(double, make(), limit)] == expected
            completed = [item async for item, _ in s.as_completed(double, make(), limit)]
            assert sorted(completed) == list(range(6))


@AROUND
async def test_rule_12_a_source_inside_of_blocks_may_be_left(
    around: Callable[[], contextlib.AbstractAsyncContextManager[None]],
) -> None:
    ended: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            async with around():
                for number in range(6):
                    yield number
                await anyio.sleep_forever()
        finally:
            ended.append("source")

    with anyio.fail_after(5):
        async with scope() as s:
            async for _ in s.map(double, source(), 2):
                break
            await anyio.wait_all_tasks_blocked()
            assert ended == ["source"]


async def test_rule_12_a_timeout_in_a_source_ends_only_what_it_is_around() -> None:
    async def source() -> AsyncIterator[int]:
        for number in range(3):
            with anyio.move_on_after(0.01):
                await anyio.sleep_forever()
            yield number

    async with scope() as s:
        assert [result.value for result in await s.map(double, source())] == [0, 2, 4]


async def test_rule_12_a_plain_generator_is_stepped_and_closed_by_one_task() -> None:
    tasks: list[int] = []

    def source() -> Iterator[int]:
        with anyio.CancelScope():
            try:
                for number in range(20):
                    tasks.append(here())
                    yield number
            finally:
                tasks.append(here())

    async with scope() as s:
        assert len(await s.map(double, source(), limit=3)) == 20
        assert len(tasks) == 21
        assert len(set(tasks)) == 1
        for wrap in (iter, lambda generator: itertools.islice(generator, 20)):
            tasks.clear()
            async for _ in s.map(double, wrap(source()), limit=3):
                break
            await anyio.wait_all_tasks_blocked()
            assert len(set(tasks)) == 1


class Stepping:
    """An iterator that is no generator; tells which tasks step it, and which one closes it."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.stepped_by: list[int] = []
        self.closed_by: list[int] = []

    def __aiter__(self) -> Stepping:
        return self

    async def __anext__(self) -> int:
        self.stepped_by.append(here())
        await anyio.sleep(0)
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left

    async def aclose(self) -> None:
        await anyio.sleep(0)
        self.closed_by.append(here())


@pytest.mark.parametrize("left_early", [True, False])
async def test_rule_12_an_iterator_is_stepped_and_closed_by_one_task(left_early: bool) -> None:
    source = Stepping(9)
    async with scope() as s:
        async for _ in s.as_completed(double, source, limit=2):
            if left_early:
                break
    assert source.closed_by == [source.stepped_by[0]]
    assert len(set(source.stepped_by)) == 1


@pytest.mark.parametrize("cancel", [True, False])
async def test_rule_12_closing_a_source_is_shielded(cancel: bool) -> None:
    closed: list[bool] = []

    async def source() -> AsyncIterator[int]:
        with anyio.CancelScope():
            try:
                yield 1
                yield 2
            finally:
                await anyio.sleep(0.001)
                closed.append(True)

    async with scope() as s:
        async for _ in s.map(double, source(), limit=1):
            if cancel:
                s.cancel()
            break
    assert closed == [True]


async def test_rule_12_a_source_that_was_never_stepped_is_closed() -> None:
    source = Stepping(9)
    async with scope() as s:
        results = aiter(s.map(double, source))
        await results.aclose()
    assert source.stepped_by == []
    assert len(source.closed_by) == 1


# Context


@pytest.mark.parametrize("plain", [True, False])
async def test_rule_12_a_source_keeps_its_context_variables_to_itself(plain: bool) -> None:
    kept: list[bool] = []
    seen: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1, 7):
            token = variable.set(number)
            yield number
            kept.append(variable.get() == number)
            variable.reset(token)

    async def numbers_later() -> AsyncIterator[int]:
        for number in numbers():
            await anyio.sleep(0)
            yield number

    async def look(_: int) -> None:
        seen.append(variable.get())

    variable.set(100)
    async with scope() as s:
        await s.map(look, numbers() if plain else numbers_later(), limit=3)
        async for _ in s.map(look, numbers() if plain else numbers_later(), limit=3):
            variable.set(200)
        assert variable.get() == 200
    assert kept == [True] * 12
    assert seen == [100] * 12


async def test_rule_12_items_and_source_have_the_context_in_which_the_map_was_made() -> None:
    seen: list[int] = []

    async def source() -> AsyncIterator[int]:
        seen.append(variable.get())
        yield 1

    async def look(_: int) -> None:
        seen.append(variable.get())
        variable.set(-1)

    async with scope() as s:
        variable.set(1)
        made = s.map(look, source())
        made_of_a_list = s.map(look, [1, 2])
        variable.set(2)
        await made
        await s.task(lambda: made_of_a_list)
    assert seen == [1, 1, 1, 1]


async def test_rule_12_the_source_runs_in_the_scope_of_the_map() -> None:
    seen: list[Scope | None] = []

    async def source() -> AsyncIterator[int]:
        seen.append(current_scope())
        yield 1

    async with scope() as s:
        results = s.map(double, source())
        async with scope():
            await results
    assert seen == [s]


async def test_rule_10_the_source_lends_nothing_of_those_who_take_its_items() -> None:
    async def source() -> AsyncIterator[int]:
        yield 0
        yield (await s.task(double, 1)).unwrap()

    async def consume() -> None:
        async for result in s.map(double, source()):
            if result.value == 0:
                running.append("consumer")
                await anyio.wait_all_tasks_blocked()
                running.clear()

    async def other() -> None:
        assert running == []

    running: list[str] = []
    async with scope(concurrency=1) as s:
        consuming = s.task(consume)
        s.task(other)
        assert (await consuming).error is None


# Maps of maps


class Stuck:
    """A function of items that takes for ever, but for 0; tells which were cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []

    async def __call__(self, item: int) -> int:
        try:
            await anyio.sleep_forever() if item else None
        except BaseException:
            self.cancelled.append(item)
            raise
        return item


async def test_rule_12_a_map_of_a_map_hands_on_its_items() -> None:
    async def value_of(result: Any) -> int:
        return int(result.unwrap())

    async with scope() as s:
        inner = s.map(double, range(6), limit=2)
        assert [r.value for r in await s.map(value_of, inner, 3)] == [0, 2, 4, 6, 8, 10]


async def test_rule_12_an_inner_map_ends_when_the_outer_one_is_left() -> None:
    stuck = Stuck()

    async def first_of(pair: tuple[int, object]) -> int:
        return pair[0]

    async with scope() as s:
        async for _ in s.map(first_of, s.as_completed(stuck, range(3)), limit=2):
            break
        await anyio.wait_all_tasks_blocked()
        assert sorted(stuck.cancelled) == [1, 2]


# Errors


async def test_rule_12_an_error_of_a_source_comes_after_the_results_before_it() -> None:
    async def source() -> AsyncIterator[int]:
        async with scope() as s:
            yield 1
            (await s.task(fail)).unwrap()

    async def fail() -> None:
        raise KeyError("planned")

    seen: list[int | None] = []
    async with scope() as s:
        with pytest.raises(KeyError, match="planned"):
            async for result in s.map(double, source()):
                seen += [result.value]
        assert (await s.task(double, 1)).value == 2
    assert seen == [2]


async def test_rule_12_an_error_of_a_source_that_would_end_a_loop_is_not_lost() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise StopAsyncIteration("planned")

    seen: list[int | None] = []
    async with scope() as s:
        with pytest.raises(RuntimeError, match="StopAsyncIteration") as caught:
            async for result in s.map(double, source()):
                seen += [result.value]
    assert seen == [2]
    assert isinstance(caught.value.__cause__, StopAsyncIteration)


async def test_rule_12_what_closing_a_source_raises_is_not_lost() -> None:
    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise ValueError("closing")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            async for _ in s.map(double, source(), limit=1):
                break
    assert [str(error) for error in caught.value.exceptions] == ["closing"]


# asyncio's own cancellation


async def cancelled_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def cancelled_natively() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await anyio.sleep(1)


STRAY = pytest.mark.parametrize("stray", [cancelled_future, cancelled_natively])


@STRAY
async def test_a_cancellation_that_comes_out_of_a_source_is_an_error_for_its_consumer(
    stray: Callable[[], Awaitable[None]], anyio_backend: Any
) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio has no cancellation of its own")

    async def source() -> AsyncIterator[int]:
        yield 1
        await stray()
        yield 2

    async with scope() as s:
        sibling = s.task(double, 3)
        for take in (take_all, take_each, take_completed):
            with pytest.raises(TaskCancelled, match="source"):
                await take(s, double, source())
        assert (await sibling).value == 6
        assert (await s.task(double, 1)).value == 2


async def take_all(s: Scope, fn: Any, items: Any) -> list[Any]:
    return list(await s.map(fn, items, 2))


async def take_each(s: Scope, fn: Any, items: Any) -> list[Any]:
    return [result async for result in s.map(fn, items, 2)]


async def take_completed(s: Scope, fn: Any, items: Any) -> list[Any]:
    return [result async for _, result in s.as_completed(fn, items, 2)]


@STRAY
@pytest.mark.parametrize("limit", [1, 3])
async def test_a_cancellation_that_comes_out_of_an_item_is_its_result_alone(
    stray: Callable[[], Awaitable[None]], limit: int, anyio_backend: Any
) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio has no cancellation of its own")
    workers: list[object] = []  # kept, since the next one may have the id of one that is gone

    async def work(number: int) -> int:
        workers.append(asyncio.current_task())
        if number % 3 == 0:
            await stray()
        return await double(number)

    async with scope() as s:
        sibling = s.task(double, 3)
        for ordered in (True, False):
            if ordered:
                results = [r async for r in s.map(work, range(9), limit)]
            else:
                results = await s.map(work, iter(range(9)), limit)
            for number, result in enumerate(results):
                if number % 3 == 0:
                    assert isinstance(result.error, TaskCancelled)
                else:
                    assert result.value == 2 * number
        assert (await sibling).value == 6
    if stray is cancelled_natively:
        assert len(set(workers)) >= 6  # a worker that was hit is not used again


async def test_a_worker_that_is_cancelled_while_it_waits_is_replaced(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio has no cancellation of its own")
    workers: set[Any] = set()

    async def work(number: int) -> int:
        workers.add(asyncio.current_task())
        return await double(number)

    async with scope() as s:
        seen: list[int | None] = []
        async for result in s.map(work, range(20), limit=2):
            seen.append(result.value)
            await anyio.wait_all_tasks_blocked()
            for task in workers:
                task.cancel()
            workers.clear()
        assert (await s.task(double, 1)).value == 2
    assert seen == [2 * number for number in range(20)]


async def test_a_source_that_is_cancelled_while_it_waits_for_room_tells_its_consumer(
    anyio_backend: Any,
) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio has no cancellation of its own")
    stepping: list[Any] = []

    async def source() -> AsyncIterator[int]:
        for number in range(20):
            stepping.append(asyncio.current_task())
            yield number

    async with scope() as s:
        seen: list[int | None] = []
        with pytest.raises(TaskCancelled, match="source"):
            async for result in s.map(double, source(), limit=2):
                seen.append(result.value)
                await anyio.wait_all_tasks_blocked()
                stepping[0].cancel()
        assert (await s.task(double, 1)).value == 2
    assert seen[:2] == [0, 2]


async def test_rule_12_what_ends_the_program_in_a_source_shows_what_it_was_raised_in() -> None:
    class EndOfProgram(BaseException):
        pass

    async def source() -> AsyncIterator[int]:
        try:
            raise KeyError
        except KeyError:
            raise EndOfProgram  # noqa: B904 - as users do
        yield 1

    with pytest.raises(EndOfProgram) as caught:
        async with scope() as s:
            await s.map(double, source())
    assert isinstance(caught.value.__context__, KeyError)
    assert not caught.value.__suppress_context__
