"""Rule 12: a function over many items, in order or as they are done."""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Err, Ok, current_scope, scope
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def fail(error: Exception) -> int:
    await anyio.sleep(0)
    raise error


class Finish:
    """Notes what ended, cancelled or not."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def sleep(self, name: str, seconds: float = 10) -> str:
        try:
            await anyio.sleep(seconds)
        finally:
            self.ended.append(name)
        return name


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await anyio.sleep(0)
        yield number


async def double(number: int) -> int:
    await anyio.sleep(0.001 * (number % 3))
    if number == 5:
        raise ValueError(number)
    return number * 2


@pytest.mark.parametrize("source", ["sync", "async"])
@pytest.mark.parametrize("limit", [None, 1, 3])
async def test_rule_12_map_returns_results_in_order(source: str, limit: int | None) -> None:
    def items() -> Any:
        return iter(range(10)) if source == "sync" else numbers(10)

    async with scope() as s:
        for results in (
            await s.map(double, items(), limit),
            [result async for result in s.map(double, items(), limit)],
        ):
            assert [result.value for result in results] == [
                0, 2, 4, 6, 8, None, 12, 14, 16, 18
            ]  # fmt: skip
            assert isinstance(results[5].error, ValueError)
        assert await s.map(double, [], limit) == []


@pytest.mark.parametrize("source", ["sync", "async"])
async def test_rule_12_as_completed_yields_items_and_results_as_they_come(source: str) -> None:
    ended = {number: anyio.Event() for number in range(4)}
    ended[0].set()

    async def after_the_one_before(number: int) -> int:
        await ended[number - 1].wait()
        return number * 2

    items: Any = [3, 1, 2] if source == "sync" else aiter_of([3, 1, 2])
    seen: list[tuple[int, int | None]] = []
    async with scope() as s:
        async for item, result in s.as_completed(after_the_one_before, items):
            seen.append((item, result.value))
            ended[item].set()
    assert seen == [(1, 2), (2, 4), (3, 6)]


async def aiter_of(items: list[int]) -> AsyncIterator[int]:
    for item in items:
        yield item


@pytest.mark.parametrize("ordered", [True, False])
async def test_rule_12_at_most_limit_items_are_out(ordered: bool) -> None:
    taken = running = highest = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield number

    async def work(number: int) -> int:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await anyio.sleep(0.0001)
        running -= 1
        return number

    delivered = 0
    async with scope() as s:
        results: Any = (
            s.map(work, items(), limit=4) if ordered else s.as_completed(work, items(), limit=4)
        )
        async for _ in results:
            delivered += 1
            assert taken - delivered <= 4
            await anyio.sleep(0.0003)
    assert delivered == 50
    assert 1 < highest <= 4


async def test_rule_12_map_starts_nothing_before_it_is_wanted() -> None:
    calls = 0

    async def work(number: int) -> None:
        nonlocal calls
        calls += 1

    async with scope() as s:
        unwanted = s.map(work, range(3))
        await anyio.sleep(0.01)
        wanted = s.map(work, range(3))
        await wanted
        with pytest.raises(RuntimeError, match="only once"):
            await wanted
    assert calls == 3
    del unwanted


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kept", [True, False])
async def test_rule_12_leaving_the_loop_early_cancels_what_runs(ordered: bool, kept: bool) -> None:
    finish = Finish()

    async def work(number: int) -> None:
        if number:
            await finish.sleep(str(number))

    async with scope() as s:
        results: Any = (
            s.map(work, range(100), limit=3) if ordered else s.as_completed(work, range(100), 3)
        )
        async for _ in results:
            break
        if kept:
            await results.aclose()
        else:
            results = None
        with anyio.fail_after(5):
            while s._works:
                await anyio.sleep(0.001)
    assert {"1", "2"} <= set(finish.ended) <= {"1", "2", "3"}


@pytest.mark.parametrize("method", ["map", "as_completed"])
async def test_rule_12_leaving_the_loop_over_results_that_have_a_name_cancels_what_runs(
    method: str,
) -> None:
    finish = Finish()

    async def work(number: int) -> None:
        if number:
            await finish.sleep(str(number))

    async with scope() as s:
        results = getattr(s, method)(work, range(3))
        async for _ in results:
            break
        await anyio.wait_all_tasks_blocked()
        assert sorted(finish.ended) == ["1", "2"]
        with pytest.raises(RuntimeError, match=rf"s\.{method}\(.*work\).* only once"):
            aiter(results)


@pytest.mark.parametrize("by_name", [True, False])
async def test_rule_12_a_map_that_another_thread_collects_is_cancelled(by_name: bool) -> None:
    finish = Finish()

    async def work(number: int) -> None:
        if number:
            await finish.sleep(str(number))

    async with scope() as s:
        results: Any = s.as_completed(work, range(3))
        box: list[Any] = [results if by_name else aiter(results)]
        await anext(box[0])
        del results
        thread = threading.Thread(target=box.clear)
        thread.start()
        thread.join()
        with anyio.fail_after(5):
            while len(finish.ended) < 2:
                await anyio.sleep(0.001)
    assert sorted(finish.ended) == ["1", "2"]


@pytest.mark.parametrize("method", ["map", "as_completed"])
@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_rule_12_a_cancelled_wait_for_a_result_loses_none(method: str, limit: int) -> None:
    async def work(number: int) -> int:
        if number % 20 > 10:
            await anyio.sleep(0)
        return number

    taken: list[Any] = []
    async with scope() as s:
        results = aiter(getattr(s, method)(work, range(100), limit=limit))
        with anyio.fail_after(5):
            for attempt in itertools.count():
                if len(taken) == 100:
                    break
                with anyio.CancelScope() as around:
                    if attempt % 2:
                        around.cancel()
                    taken.append(await anext(results))
    values = [one.value if method == "map" else one[1].value for one in taken]
    assert (values if method == "map" else sorted(values)) == list(range(100))


async def test_rule_12_workers_go_on_while_a_consumer_is_busy_that_was_quick() -> None:
    started = 0

    async def work(number: int) -> None:
        nonlocal started
        started += 1
        if number >= 40:
            await anyio.sleep(0)

    delivered = 0
    async with scope() as s:
        async for _ in s.map(work, range(100), limit=4):
            delivered += 1
            if 50 <= delivered < 54:
                await anyio.wait_all_tasks_blocked()
                assert started - delivered >= 2
    assert delivered == 100


@pytest.mark.parametrize("method", ["map", "as_completed"])
async def test_rule_12_results_can_be_taken_with_anext_alone(method: str) -> None:
    """As progress bars do that wrap an asynchronous iterator."""
    async with scope() as s:
        results = getattr(s, method)(give, range(5), limit=2)
        first = await anext(results)
        second = await anext(results)
        rest = [result async for result in results]
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        assert len([first, second, *rest]) == 5

        alone = getattr(s, method)(give, range(5), limit=2)
        taken = 0
        with pytest.raises(StopAsyncIteration):
            while True:
                await anext(alone)
                taken += 1
        assert taken == 5


async def test_rule_12_results_say_what_they_are() -> None:
    async with scope() as s:
        results = s.map(give, range(5), limit=2)
        name = f"s.map({give.__qualname__})"
        assert name in repr(results)
        assert "not started" in repr(results)
        await anext(results)
        assert "running" in repr(results)
        assert "finished" in repr(results)
        await results.aclose()
        with pytest.raises(RuntimeError, match=r"s\.map\(.*give\)"):
            await results
        completed: Any = s.as_completed(give, range(5))
        assert "s.as_completed(" in repr(completed)
        with pytest.raises(TypeError, match=r"async for item, result in s\.as_completed\(.*give"):
            await completed


async def test_rule_12_a_loop_left_early_never_keeps_the_scope_waiting() -> None:
    kept: list[object] = []
    with anyio.fail_after(5):
        async with scope() as s:
            results = s.map(anyio.sleep, [0, *[60] * 10], limit=2)
            kept.append(results)
            async for _ in results:
                break
    assert not s._works


async def test_rule_12_an_error_that_was_not_delivered_is_not_lost() -> None:
    first_taken = anyio.Event()

    async def work(item: int) -> None:
        if item > 0:
            await first_taken.wait()
            raise ValueError(item)

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            async for item, _ in s.as_completed(work, [1, 0], limit=2):
                assert item == 0
                first_taken.set()
                await anyio.wait_all_tasks_blocked()
                break
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


async def test_rule_12_a_map_loses_no_error_when_its_function_returns_no_awaitable() -> None:
    def work(item: int) -> Any:
        return 5 if item else fail(ValueError("of another"))

    with pytest.raises(TypeError, match="cannot be awaited") as caught:
        async with scope() as s:
            await s.map(work, [0, 1])
    assert any("of another" in note for note in caught.value.__notes__)


async def test_rule_12_what_the_source_raises_is_raised_to_the_consumer() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("source")

    async def broken_async() -> AsyncIterator[int]:
        for number in broken():
            yield number

    async with scope() as s:
        for source in (broken, broken_async):
            with pytest.raises(KeyError, match="source"):
                await s.map(give, source())
            results = aiter(s.map(give, source(), limit=1))
            seen = [(await anext(results)).value for _ in range(2)]
            with pytest.raises(KeyError, match="source"):
                await anext(results)
            assert seen == [1, 2]


async def test_rule_12_items_have_their_own_context_and_the_safety_nets_of_the_scope() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    calls = 0

    async def work(number: int) -> int:
        nonlocal calls
        calls += 1
        assert current_scope() is s
        if calls % 2:
            raise ValueError
        before = variable.get()
        variable.set(number)
        return before

    variable.set(7)
    async with scope(retry=2, concurrency=1) as s:
        results = await s.map(work, [1, 2, 3], retry=None)
    assert [result.value for result in results] == [7, 7, 7]
    assert calls == 6


async def test_rule_12_items_go_through_timeouts_and_circuit_breakers() -> None:
    breaker = CircuitBreaker("of these items", failure_threshold=2)
    async with scope(persistence=MemoryStore()) as s:
        results = await s.map(
            anyio.sleep, [60, 60, 60], limit=1, timeout=0.001, circuit_breaker=breaker
        )
        kinds = [type(result.error) for result in results]
    assert kinds == [TimeoutError, TimeoutError, CircuitOpenError]


async def test_rule_12_an_item_may_wait_for_a_task_of_its_scope() -> None:
    async def work(number: int) -> int:
        return (await s.task(give, number)).unwrap()

    results: list[Ok[int] | Err] = []
    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            results = await s.map(work, range(5), limit=3)
            nested = s.task(lambda: s.map(work, range(5), limit=3))
            assert [result.value for result in (await nested).unwrap()] == list(range(5))
    assert [result.value for result in results] == list(range(5))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((3, [1]), TypeError, "takes a function"),
        ((give, 3), TypeError, "items must be iterable"),
        ((give, [1], 0), ValueError, "limit must be 1 or more"),
        ((give, [1], 1.5), TypeError, "limit must be an int"),
    ],
)
async def test_rule_12_bad_arguments_of_map_are_refused(
    arguments: Any, error: type[Exception], text: str
) -> None:
    async with scope() as s:
        for method in (s.map, s.as_completed):
            with pytest.raises(error, match=text):
                method(*arguments)
