"""What the original's runtime gets wrong, measured on it, and this one does not.

Each test is named after the fault of the original.
"""

from __future__ import annotations

import gc
import statistics
import time

import anyio
import anyio.lowlevel
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, TaskCancelled, scope
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def fail() -> None:
    raise ValueError("planned")


async def no_op() -> None:
    pass


async def test_the_original_counts_a_cancelled_task_as_a_failure_of_the_breaker() -> None:
    store = MemoryStore()
    breaker = CircuitBreaker("calls", failure_threshold=3)
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(10):
            task = s.task(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            task.cancel()
            assert isinstance((await task).error, TaskCancelled)
        assert (await s.task(no_op)).error is None
    state = await store.get_state("calls")
    assert state is None or state.failure_count == 0


async def test_the_original_lets_ten_of_ten_probes_through_a_half_open_breaker() -> None:
    breaker = CircuitBreaker("probed", failure_threshold=1, reset_timeout=0.01)
    called = 0
    answer = anyio.Event()

    async def probe() -> None:
        nonlocal called
        called += 1
        await answer.wait()

    async with scope(persistence=MemoryStore(), circuit_breaker=breaker) as s:
        assert (await s.task(fail)).error is not None
        await anyio.sleep(0.02)
        probes = [s.task(probe) for _ in range(10)]
        await anyio.wait_all_tasks_blocked()
        answer.set()
        errors = [result.error for result in await s.all(*probes)]
    assert called == 1
    assert sum(isinstance(error, CircuitOpenError) for error in errors) == 9


async def test_the_original_deadlocks_a_mutex_with_two_waiters() -> None:
    order: list[int] = []

    async def wait_for_it(number: int) -> None:
        async with s.lock("mutex"):
            order.append(number)

    with anyio.fail_after(10):
        async with scope(persistence=MemoryStore()) as s:
            async with s.lock("mutex"):
                waiters = [s.task(wait_for_it, number) for number in range(2)]
                await anyio.wait_all_tasks_blocked()
                assert not order
            await s.all(*waiters)
    assert sorted(order) == [0, 1]


async def test_the_original_leaves_a_scope_before_finally_blocks_have_ended() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
            ended.append("finally")

    async with scope() as s:
        s.task(work)
        await anyio.wait_all_tasks_blocked()
        s.cancel("enough")
    ended.append("scope")
    assert ended == ["finally", "scope"]


async def test_the_original_leaves_the_body_of_a_task_running_after_its_timeout() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            done.append("body")

    async with scope() as s:
        err, _ = await s.task(work, timeout=0.001)
        done.append("result")
        assert isinstance(err, TimeoutError)
    assert done == ["body", "result"]


async def test_the_original_takes_longer_for_each_task_the_more_there_are() -> None:
    async def seconds_per_task(tasks: int) -> float:
        began = time.process_time()
        async with scope() as s:
            for _ in range(tasks):
                s.task(no_op)
        return (time.process_time() - began) / tasks

    await seconds_per_task(1000)
    gc.disable()
    try:
        pairs = [(await seconds_per_task(500), await seconds_per_task(5000)) for _ in range(3)]
    finally:
        gc.enable()
    assert statistics.median(many / few for few, many in pairs) < 4
