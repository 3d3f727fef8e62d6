"""The raising form of a task: ``value = await s.call(fn)``."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import itertools
import warnings
import weakref
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Retry, TaskCancelled, scope

pytestmark = pytest.mark.anyio

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


numbers = itertools.count()


async def double(number: int) -> int:
    await anyio.sleep(0)
    return 2 * number


async def fail() -> int:
    await anyio.sleep(0)
    raise OSError("broken")


async def test_rule_15_a_call_returns_the_value() -> None:
    async with scope() as s:
        assert await s.call(double, 2) == 4


async def test_rule_15_a_call_raises_the_error_which_is_then_handled() -> None:
    async with scope() as s:
        with pytest.raises(OSError, match="broken") as caught:
            await s.call(fail)
    assert "in task 'fail'" in caught.value.__notes__[0]


async def test_rule_15_a_call_is_not_begun_before_it_is_awaited() -> None:
    begun: list[bool] = []

    async def begin() -> None:
        begun.append(True)

    async with scope() as s:
        waiting = s.call(begin)
        await anyio.sleep(0.01)
        assert not begun
        await waiting
        assert begun


@pytest.mark.parametrize("options", [{}, {"name": "named"}], ids=["plain", "with_options"])
async def test_rule_15_the_error_of_a_call_is_no_part_of_a_cycle(options: dict[str, Any]) -> None:
    class Local:
        pass

    locals_of_calls: list[weakref.ref[Local]] = []

    async def fail_with_a_local() -> None:
        local = Local()
        locals_of_calls.append(weakref.ref(local))
        raise OSError("broken")

    gc.disable()
    try:
        async with scope() as s:
            with contextlib.suppress(OSError):
                await s.call(fail_with_a_local, **options)
            assert locals_of_calls[0]() is None
    finally:
        gc.enable()


async def test_a_call_needs_no_task_of_the_event_loop_of_its_own(inline: bool) -> None:
    async def running() -> int:
        await anyio.sleep(0)
        return len(anyio.get_running_tasks())

    async with scope() as s:
        assert (await s.call(running) == await running()) is inline


async def test_rule_15_a_call_that_nobody_awaits_warns_as_any_coroutine() -> None:
    async with scope() as s:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            s.call(double, 1)  # type: ignore[unused-coroutine]
            gc.collect()
    assert "never awaited" in str(caught[0].message)


async def test_rule_15_a_call_takes_the_options_of_a_task() -> None:
    tries: list[int] = []

    async def fail_once() -> str:
        tries.append(len(tries))
        if len(tries) == 1:
            raise OSError("broken")
        return "fine"

    async with scope() as s:
        assert await s.call(fail_once, retry=Retry(2, delay=0), name="flaky") == "fine"
        with pytest.raises(TimeoutError):
            await s.call(anyio.sleep_forever, timeout=0.001)
        breaker = CircuitBreaker(f"calls {next(numbers)}", failure_threshold=1)
        with pytest.raises(OSError, match="broken"):
            await s.call(fail, circuit_breaker=breaker)
        with pytest.raises(CircuitOpenError):
            await s.call(double, 1, circuit_breaker=breaker)
        first = s.task(double, 3, dedupe="key")
        assert await s.call(double, 99, dedupe="key") == 6
        assert (await first).unwrap() == 6


async def test_rule_15_a_call_runs_in_a_context_of_its_own() -> None:
    async def change() -> int:
        variable.set(1)
        return variable.get()

    async with scope() as s:
        assert await s.call(change) == 1
        assert variable.get() == 0


async def test_rule_15_a_call_raises_task_cancelled_if_only_the_task_was_cancelled() -> None:
    async with scope() as outer, scope() as inner:

        async def cancel() -> None:
            inner.cancel("enough")
            await anyio.sleep(1)

        async def call() -> None:
            with pytest.raises(TaskCancelled, match="enough"):
                await inner.call(cancel)

        await outer.task(call).wait()


async def test_rule_15_a_call_whose_caller_is_cancelled_raises_that_and_no_error() -> None:
    seen: list[BaseException] = []

    async def call_for_ever(s: Any) -> None:
        try:
            await s.call(anyio.sleep_forever)
        except BaseException as raised:
            seen.append(raised)
            raise

    async with scope() as s:
        task = s.task(call_for_ever, s)
        await anyio.sleep(0.01)
        s.cancel("enough")
    assert isinstance((await task).error, TaskCancelled)
    assert isinstance(seen[0], anyio.get_cancelled_exc_class())


async def test_rule_15_a_call_names_itself_when_it_refuses_a_function() -> None:
    async with scope() as s:
        wrong: Any = 1
        with pytest.raises(TypeError, match=r"^s\.call takes a function, got 1 of type int"):
            await s.call(wrong)
        coroutine: Any = double(1)
        with pytest.raises(TypeError, match=r"s\.call\(double, \*args\)"):
            await s.call(coroutine)
