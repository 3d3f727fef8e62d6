"""What the end of a call means for its circuit: a failure, or nothing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, Retry, Scope, TaskCancelled, retry, scope
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

BREAKER = CircuitBreaker("payments", failure_threshold=1)


async def good() -> int:
    return 1


async def never() -> None:
    await anyio.sleep_forever()


async def ends_slowly(seconds: float) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)


async def awaits_a_cancelled_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def unwraps_a_task(s: Scope) -> None:
    (await s.task(never, circuit_breaker=False)).unwrap()


async def unwraps_any(s: Scope) -> None:
    (await s.any([unguarded(s), unguarded(s)])).unwrap()


async def unwraps_in_a_group(s: Scope) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(unwraps_a_task, s)
        group.start_soon(unwraps_a_task, s)


def unguarded(s: Scope) -> Callable[[], Awaitable[None]]:
    return functools.partial(unwraps_a_task, s)


def stop_first(s: Scope, unwrap: Callable[[Scope], Awaitable[None]]) -> Callable[[], Any]:
    async def call() -> None:
        s.cancel("stop")
        await unwrap(s)

    return call


def ignored(error: Exception) -> None:
    pass


async def failures(store: MemoryStore) -> int:
    state = await store.get_state("payments")
    return 0 if state is None else state.failure_count


UNWRAPPING = pytest.mark.parametrize("unwrap", [unwraps_a_task, unwraps_any, unwraps_in_a_group])


@UNWRAPPING
async def test_to_unwrap_what_was_cancelled_with_the_caller_is_no_failure(unwrap: Any) -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        s.task(stop_first(s, unwrap), circuit_breaker=BREAKER, on_error=ignored)
    assert await failures(store) == 0


@UNWRAPPING
async def test_breaker_call_counts_no_unwrapping_of_what_was_cancelled_with_the_caller(
    unwrap: Any,
) -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        s.task(BREAKER.call, stop_first(s, unwrap), on_error=ignored)
    assert await failures(store) == 0


@UNWRAPPING
async def test_what_was_cancelled_with_the_caller_is_not_retried(unwrap: Any) -> None:
    calls: list[int] = []
    async with scope() as s:

        async def call() -> None:
            calls.append(1)
            await stop_first(s, unwrap)()

        s.task(Retry(3, delay=0).call, call, on_error=ignored)
    async with scope() as s:
        s.task(call, retry=Retry(3, delay=0), on_error=ignored)
    assert len(calls) == 2


async def test_a_call_cancelled_from_outside_is_no_failure_though_its_timeout_passes_then() -> None:
    store = MemoryStore()
    with anyio.move_on_after(0.02):
        async with scope(persistence=store) as s:
            s.task(ends_slowly, 0.06, circuit_breaker=BREAKER, timeout=0.04)
            await ends_slowly(0.1)
    assert await failures(store) == 0


async def test_the_timeout_of_a_task_is_a_failure() -> None:
    store = MemoryStore()
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        err, _ = await s.task(ends_slowly, 0.01, timeout=0.01)
        assert isinstance(err, TimeoutError)
    assert await failures(store) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_nobody_asked_for_is_an_error_of_the_call() -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        with pytest.raises(TaskCancelled, match="nobody asked for"):
            await BREAKER.call(awaits_a_cancelled_future)
        err, _ = await s.task(good, circuit_breaker=BREAKER)
        assert err is not None
    assert await failures(store) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_nobody_asked_for_is_retried() -> None:
    calls: list[int] = []

    async def call() -> None:
        calls.append(1)
        await awaits_a_cancelled_future()

    with pytest.raises(TaskCancelled):
        await Retry(3, delay=0).call(call)
    async with scope() as s:
        err, _ = await s.task(call, retry=Retry(3, delay=0))
        assert isinstance(err, TaskCancelled)
    assert len(calls) == 6


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_caller_that_asyncio_cancels_is_cancelled_and_counts_nothing() -> None:
    store = MemoryStore()
    async with scope(persistence=store):

        async def work() -> None:
            async with scope(persistence=store):
                await BREAKER.call(never)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await failures(store) == 0


WRONG: list[tuple[Any, tuple[Any, ...]]] = [
    (good, ("one too many",)),
    (functools.partial(good), (1,)),
    (BREAKER.call, (good, "one too many")),
    (Retry(2).call, (good, "one too many")),
]


@pytest.mark.parametrize(("fn", "args"), WRONG)
async def test_a_call_with_wrong_arguments_is_no_failure_and_is_not_retried(
    fn: Any, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pause(delay: float) -> None:
        raise AssertionError("it is retried")

    monkeypatch.setattr(retry, "pause", pause)
    store = MemoryStore()
    async with scope(persistence=store) as s:
        err, _ = await s.task(fn, *args, circuit_breaker=BREAKER, retry=3)
        assert isinstance(err, TypeError)
        for call in (BREAKER.call, Retry(3).call):
            with pytest.raises(TypeError):
                await call(fn, *args)
    assert await failures(store) == 0


async def test_a_type_error_of_the_function_is_a_failure() -> None:
    async def broken() -> None:
        await good("one too many")  # type: ignore[call-arg]

    store = MemoryStore()
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        err, _ = await s.task(broken)
        assert isinstance(err, TypeError)
    assert await failures(store) == 1
