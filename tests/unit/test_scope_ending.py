"""How a block ends: resources closed whole, errors kept, nothing left that waits for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import anyio
import pytest
from attrs import define, field

from gogoscope import TaskCancelled, scope

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
