"""Rule 10: context, slots, priorities, and waiting inside a task."""

from __future__ import annotations

import contextvars

import anyio
import pytest

from gogoscope import Scope, current_scope, scope

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


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


class Compared(float):
    """A priority that counts how often it is compared."""

    count = 0

    def __neg__(self) -> Compared:
        return Compared(-float(self))

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return float(self) == other

    __hash__ = float.__hash__


async def test_rule_10_a_long_line_that_is_cancelled_does_not_search_itself_for_each() -> None:
    tasks = 1000
    async with scope(concurrency=1) as s:
        for _ in range(tasks):
            s.task(anyio.sleep_forever, priority=Compared(1))
        await anyio.wait_all_tasks_blocked()
        Compared.count = 0
        s.cancel()
    assert Compared.count < 50 * tasks


async def test_rule_10_who_stands_in_line_keeps_the_turn_though_most_others_leave() -> None:
    order: list[int] = []
    release = anyio.Event()

    async def work(number: int) -> None:
        order.append(number)

    async with scope(concurrency=1) as s:
        s.task(release.wait)
        tasks = [s.task(work, number, priority=number % 3) for number in range(60)]
        await anyio.wait_all_tasks_blocked()
        for number, task in enumerate(tasks):
            if number % 10:
                task.cancel()
        release.set()
    assert order == [20, 50, 10, 40, 0, 30]


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
