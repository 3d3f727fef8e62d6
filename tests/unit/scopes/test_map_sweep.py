"""Rule 12: a worker or a source of a map that asyncio itself cancels, at any of its awaits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from gogoscope import Ok, Scope, TaskCancelled, scope
from tests.unit.scopes.stepping import calling_after_each_step
from tests.unit.scopes.test_cancellation_sweep import ON_ASYNCIO

pytestmark = [pytest.mark.anyio, ON_ASYNCIO]

MOST_STEPS = 400
COUNT = 7


async def double(number: int) -> int:
    for _ in range(number % 3):
        await anyio.sleep(0)
    return 2 * number


def plain() -> list[int]:
    return list(range(COUNT))


def generated() -> Iterator[int]:
    with anyio.CancelScope():
        yield from range(COUNT)


async def generated_later() -> AsyncIterator[int]:
    async with scope() as s:
        for number in range(COUNT):
            yield (await s.task(double, number)).unwrap() // 2


async def awaited(s: Scope, items: Any) -> list[Any]:
    return list(await s.map(double, items, limit=2))


async def looped(s: Scope, items: Any) -> list[Any]:
    return [result async for result in s.map(double, items, limit=2)]


async def completed(s: Scope, items: Any) -> list[Any]:
    return [result async for _, result in s.as_completed(double, items, limit=2)]


async def mapped_again(s: Scope, items: Any) -> list[Any]:
    async def value_of(result: Any) -> Any:
        return result.unwrap()

    return list(await s.map(value_of, s.map(double, items, limit=2), limit=2))


class Strike:
    """Cancels the tasks of asyncio that have a name, when they have begun, at one step."""

    def __init__(self, name: str, step: int) -> None:
        self.name = name
        self.step = step
        self.taken = 0

    @property
    def struck(self) -> bool:
        return self.taken >= self.step

    def after_step(self) -> None:
        self.taken += 1
        if self.taken == self.step:
            for task in asyncio.all_tasks():
                if task.get_name().startswith(self.name):
                    coroutine: Any = task.get_coro()
                    if inspect.getcoroutinestate(coroutine._coroutine) != inspect.CORO_CREATED:
                        task.cancel()


@pytest.mark.parametrize("name", ["map double", "source of double"])
@pytest.mark.parametrize("make", [plain, generated, generated_later])
@pytest.mark.parametrize("take", [awaited, looped, completed, mapped_again])
async def test_rule_12_nothing_is_cut_in_silence_when_asyncio_cancels_at_any_step(
    name: str, make: Callable[[], Any], take: Callable[[Scope, Any], Awaitable[list[Any]]]
) -> None:
    async def program(strike: Strike) -> None:
        async with scope() as s:
            sibling = s.task(double, 50)
            results: list[Any] = []
            try:
                results = await take(s, make())
            except TaskCancelled:
                assert strike.struck
            else:
                assert len(results) == COUNT
            for result in results:
                assert isinstance(result, Ok) or isinstance(result.error, TaskCancelled)
            assert (await sibling).value == 100
            assert (await s.task(double, 1)).value == 2

    for step in range(1, MOST_STEPS):
        strike = Strike(name, step)
        with anyio.fail_after(5), calling_after_each_step(strike.after_step):
            await asyncio.get_running_loop().create_task(program(strike))
        if not strike.struck:
            return
    pytest.fail("the program does not come to its end")
