"""What a scope holds in memory while it lives, and that nothing of it is left afterwards."""

from __future__ import annotations

import gc
import logging
import sys
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from gogoscope import CircuitBreaker, Retry, Scope, Task, scope
from gogoscope.circuit_breakers.circuit import SharedCircuit
from gogoscope.circuit_breakers.registry import REMEMBERED, Circuits, shared_circuit
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

ONCE_ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
KEPT_WHOLE = 100
NOISE = 500
"""Blocks that come and go; one that is kept for each task would make many times as many."""

MANY_TASKS = pytest.mark.parametrize(
    ("anyio_backend", "tasks"),
    [
        ("asyncio", 20_000),
        ("trio", 10_000),
        pytest.param("asyncio", 100_000, marks=pytest.mark.slow),
    ],
    ids=str,
)


@pytest.fixture(autouse=True)
def without_what_other_tests_left() -> Iterator[None]:
    """Let the collector look only at what is made in the test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def blocks() -> int:
    """Return the number of blocks of memory that Python holds; exact where bytes are not."""
    gc.collect()
    return sys.getallocatedblocks()


async def number(value: int) -> int:
    if value % 1000 == 0:
        await anyio.lowlevel.checkpoint()
    return value


async def fail() -> None:
    raise ValueError("planned")


# Streams


@pytest.mark.parametrize(
    ("anyio_backend", "tasks"),
    [
        ("asyncio", 200_000),
        ("trio", 100_000),
        pytest.param("asyncio", 1_000_000, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["map", "as_completed"])
async def test_rule_12_the_memory_of_a_stream_does_not_depend_on_its_length(
    method: str, tasks: int
) -> None:
    if method == "as_completed":
        tasks //= 10
    seen: list[int] = []
    count = 0
    async with scope() as s:
        async for _ in getattr(s, method)(number, iter(range(tasks)), limit=100):
            count += 1
            if count % (tasks // 5) == 0:
                seen.append(blocks())
    assert count == tasks
    assert seen[-1] - seen[1] < NOISE


async def test_rule_12_a_slow_consumer_holds_no_more_than_the_limit() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for value in range(1000):
            taken += 1
            yield value

    delivered = 0
    async with scope() as s:
        async for _ in s.map(number, items(), limit=10):
            delivered += 1
            await anyio.lowlevel.checkpoint()
            assert taken - delivered <= 10


# Many tasks


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="is about CPython's objects")
async def test_live_tasks_need_no_dictionary_of_their_own() -> None:
    async def wait() -> None:
        await anyio.sleep(0)
        await gate.wait()

    async def wait_for_one() -> None:
        (await s.task(wait)).unwrap()

    async def wait_in_a_scope() -> None:
        async with s.child() as inner:
            await inner.call(wait)

    gate = anyio.Event()
    async with scope(concurrency=100, on_event=lambda _: None) as s:
        for fn in (wait, wait_for_one, wait_in_a_scope):
            for _ in range(10):
                s.task(fn)
        await anyio.wait_all_tasks_blocked()
        tasks = [work for work in s._works if isinstance(work, Task)]
        assert len(tasks) >= 30
        for task in tasks:
            assert not any(type(part) is dict for part in gc.get_referents(task))
        gate.set()


async def bytes_of_bare_tasks(tasks: int) -> int:
    async def wait() -> None:
        await gate.wait()

    used, gate = 0, anyio.Event()
    async with anyio.create_task_group() as group:
        before = tracemalloc.get_traced_memory()[0]
        handles = [group.create_task(wait()) for _ in range(tasks)]
        await anyio.wait_all_tasks_blocked()
        used = tracemalloc.get_traced_memory()[0] - before
        assert len(handles) == tasks
        gate.set()
    return used


async def bytes_of_our_tasks(tasks: int) -> int:
    async def wait() -> None:
        await gate.wait()

    used, gate = 0, anyio.Event()
    async with scope() as s:
        before = tracemalloc.get_traced_memory()[0]
        handles = [s.task(wait) for _ in range(tasks)]
        await anyio.wait_all_tasks_blocked()
        used = tracemalloc.get_traced_memory()[0] - before
        assert len(handles) == tasks
        gate.set()
    return used


@pytest.mark.slow_elsewhere
@MANY_TASKS
async def test_live_tasks_take_linear_memory_and_on_asyncio_less_than_bare_ones(
    anyio_backend_name: str, tasks: int
) -> None:
    most = 1.0 if anyio_backend_name == "asyncio" else 1.5
    gc.disable()  # it would look at all of them again and again
    tracemalloc.start()
    try:
        bare = await bytes_of_bare_tasks(tasks // 10) / (tasks // 10)
        few = await bytes_of_our_tasks(tasks // 10) / (tasks // 10)
        many = await bytes_of_our_tasks(tasks) / tasks
    finally:
        tracemalloc.stop()
        gc.enable()
    assert few <= most * bare
    assert many <= most * bare
    assert many <= 1.1 * few


# A scope that lives long


async def wait_for_all(tasks: list[Task[None]]) -> None:
    for task in tasks:
        await task.wait()


async def fail_often(s: Scope, tasks: int) -> list[int]:
    """Let tasks fail, a thousand at a time, and return the memory in use after each part."""
    seen: list[int] = []
    for started in range(0, tasks, 1000):
        await wait_for_all([s.task(fail) for _ in range(1000)])
        if started % (tasks // 5) == 0:
            seen.append(blocks())
    return seen


@MANY_TASKS
async def test_rule_4_failed_tasks_of_a_scope_with_on_error_leave_nothing(tasks: int) -> None:
    told = 0

    def on_error(error: Exception) -> None:
        nonlocal told
        told += 1

    async with scope(on_error=on_error) as s:
        seen = await fail_often(s, tasks)
    assert told == tasks
    assert seen[-1] - seen[1] < NOISE


@MANY_TASKS
async def test_rule_4_a_hundred_errors_are_kept_whole_and_the_rest_is_a_number(
    tasks: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "gogoscope")  # it would keep each error that it logs
    seen: list[int] = []
    with pytest.raises(ExceptionGroup, match=f"{tasks - KEPT_WHOLE} more") as caught:
        async with scope() as s:
            seen = await fail_often(s, tasks)
    assert len(caught.value.exceptions) == KEPT_WHOLE
    assert seen[-1] - seen[1] < NOISE


@pytest.mark.slow_elsewhere
@ONCE_ON_ASYNCIO
async def test_repeated_use_of_one_scope_leaves_nothing_behind() -> None:
    seen: list[int] = []
    async with scope(concurrency=3) as s:
        for round_ in range(500):
            for use in USES:
                await use(s)
            if round_ % 100 == 99:
                seen.append(blocks())
    assert seen[-1] - seen[1] < NOISE


async def test_what_waits_for_more_tasks_keeps_no_context_of_those_before() -> None:
    class Request:
        pass

    variable: ContextVar[Request] = ContextVar("request")
    async with scope() as s:
        request = Request()
        token = variable.set(request)
        task = s.task(number, 1)
        assert (await task).unwrap() == 1
        variable.reset(token)
        gone = weakref.ref(request)
        del request, token
        gc.collect()
        assert gone() is None


# Nothing is left


BREAKER = CircuitBreaker("memory", failure_threshold=10**9)


async def use_tasks(s: Scope) -> list[BaseException | None]:
    results = await s.all(s.task(number, 1), s.task(fail))
    return [result.error for result in results]


async def use_safety_nets(s: Scope) -> list[BaseException | None]:
    retry = Retry(2, delay=0, attempt_timeout=60)
    result = await s.task(fail, retry=retry, circuit_breaker=BREAKER, timeout=60)
    return [result.error]


async def use_a_timeout(s: Scope) -> list[BaseException | None]:
    return [(await s.task(anyio.sleep_forever, timeout=0.0001)).error]


async def use_dedupe(s: Scope) -> list[BaseException | None]:
    calls = [s.task(fail, dedupe="key") for _ in range(2)]
    return [(await call).error for call in calls]


async def use_race_and_any(s: Scope) -> list[BaseException | None]:
    lost = await s.race([fail, anyio.sleep_forever])
    return [lost.error, (await s.any([fail, fail])).error]


async def use_streams(s: Scope) -> list[BaseException | None]:
    async def fail_at_one(value: int) -> None:
        if value == 1:
            await fail()

    errors: list[BaseException | None] = [
        result.error for result in await s.map(fail_at_one, range(3))
    ]
    async for _, result in s.as_completed(fail_at_one, [1, 2, 3], limit=2):
        errors.append(result.error)
        break
    return errors


async def use_every(s: Scope) -> list[BaseException | None]:
    return [(await s.every(60, fail)).error]


async def use_a_child(s: Scope) -> list[BaseException | None]:
    async with s.child(on_exit="cancel") as inner:
        cancelled = inner.task(anyio.sleep_forever)
    return [(await cancelled).error]


async def use_a_lock(s: Scope) -> list[BaseException | None]:
    async with s.lock("memory") as locked:
        return [(await locked.task(fail)).error]


async def use_a_thread(s: Scope) -> list[BaseException | None]:
    return [(await s.thread(int, "x")).error]


Use = Callable[[Scope], Awaitable[list[BaseException | None]]]
USES: list[Use] = [
    use_tasks,
    use_safety_nets,
    use_a_timeout,
    use_dedupe,
    use_race_and_any,
    use_streams,
    use_every,
    use_a_child,
    use_a_lock,
    use_a_thread,
]


def ours() -> list[object]:
    """Return the objects that belong to a scope."""
    gc.collect()
    kinds = (Scope, Task)
    return [found for found in gc.get_objects() if isinstance(found, kinds)]


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("anyio_backend", "scopes"), [("asyncio", 1000), ("trio", 100)], ids=str)
async def test_after_the_block_nothing_is_left_though_its_errors_are_kept(
    use: Use, scopes: int
) -> None:
    kept: list[BaseException | None] = []
    references: list[weakref.ref[Scope]] = []
    of_other_tests = ours()

    async def one() -> None:
        async with scope(concurrency=2) as s:
            references.append(weakref.ref(s))
            kept.extend(await use(s))

    for _ in range(scopes):
        await one()
    assert any(kept)

    def left() -> list[object]:
        return [found for found in ours() if found not in of_other_tests]

    # A worker thread lets go of its last call a moment after it has passed on the result.
    with anyio.move_on_after(5 if use is use_a_thread else 0):
        while left():
            await anyio.sleep(0.01)
    assert not left()
    assert not any(reference() for reference in references)


@pytest.mark.parametrize(
    "use", [use_tasks, use_safety_nets, use_a_timeout, use_dedupe, use_every, use_a_child]
)
async def test_a_scope_goes_with_its_last_reference_and_needs_no_collector(use: Use) -> None:
    async def one() -> weakref.ref[Scope]:
        async with scope() as s:
            await use(s)
        return weakref.ref(s)

    gc.disable()
    try:
        reference = await one()
        await anyio.wait_all_tasks_blocked()  # the event loop lets go of the last of its tasks
        assert reference() is None
    finally:
        gc.enable()


# Circuits


async def test_circuits_in_use_and_those_used_last_are_remembered() -> None:
    store = MemoryStore()
    breaker = CircuitBreaker()
    made: list[weakref.ref[SharedCircuit]] = []

    async def use(name: str) -> None:
        async with scope(persistence=store, circuit_breaker=breaker, name=name) as s:
            (await s.task(number, 1)).unwrap()
            made.append(weakref.ref(Circuits.of(s._home).circuit(breaker).shared))

    async with scope(persistence=store, circuit_breaker=breaker, name="in use") as s:
        in_use = Circuits.of(s._home).circuit(breaker).shared
        for order in range(REMEMBERED + 500):
            await use(f"order {order}")
            await use("used again and again")
        assert shared_circuit(store, "in use") is in_use
    again = shared_circuit(store, "used again and again")
    assert {shared() for shared in made[1::2]} == {again}
    gc.collect()
    assert sum(shared() is not None for shared in made[::2]) <= REMEMBERED


@ONCE_ON_ASYNCIO
async def test_work_in_the_background_is_not_kept_once_it_has_ended(
    anyio_backend: str,
) -> None:
    class Work:
        async def __call__(self) -> None:
            await anyio.lowlevel.checkpoint()

    async with scope() as s:
        work = Work()
        kept = weakref.ref(work)
        assert s._home.spawn(work)
        del work
        await anyio.wait_all_tasks_blocked()
        assert kept() is None
