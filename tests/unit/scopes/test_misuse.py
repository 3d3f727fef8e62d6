"""Every misuse says what to write instead, with the names that its author used."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, Retry, Scope, TaskCancelled, scope
from gogoscope.events import subscribe
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio


async def charge(order: object = None) -> object:
    return order


def plain(order: object = None) -> int:
    return 3


def numbers() -> Iterator[int]:
    yield 1


async def ticks() -> AsyncIterator[int]:
    yield 1


SCOPE: Any = scope
RETRY: Any = Retry
SUBSCRIBE: Any = subscribe
MEMORY_STORE: Any = MemoryStore
BREAKER: Any = CircuitBreaker


async def consume(results: Any) -> None:
    if hasattr(results, "__aiter__"):
        async for _ in results:
            pass
    else:
        await results


METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "s.task": lambda s, fn: s.task(fn, 1),
    "s.race": lambda s, fn: s.race([fn, charge]),
    "s.any": lambda s, fn: s.any([fn, charge]),
    "s.map": lambda s, fn: s.map(fn, [1]),
    "s.as_completed": lambda s, fn: s.as_completed(fn, [1]),
    "s.every": lambda s, fn: s.every(1, fn),
    "retry.call": lambda s, fn: Retry(3, delay=1000).call(fn, 1),
}
USAGES = {
    "s.task": "s.task(charge, *args)",
    "s.race": "s.race([partial(charge, *args), ...])",
    "s.any": "s.any([partial(charge, *args), ...])",
    "s.map": "s.map(charge, items)",
    "s.as_completed": "s.as_completed(charge, items)",
    "s.every": "s.every(interval, partial(charge, *args))",
    "retry.call": "retry.call(charge, *args)",
}


async def misuse(method: str, fn: object) -> str:
    with pytest.raises(TypeError) as caught:
        async with scope() as s:
            await consume(METHODS[method](s, fn))
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
async def test_a_coroutine_object_is_refused_with_the_method_and_the_functions_name(
    method: str,
) -> None:
    assert await misuse(method, charge(1)) == (
        f"{method} takes a function, got a coroutine object of 'charge'; write {USAGES[method]}"
    )


@pytest.mark.parametrize("method", METHODS)
async def test_something_that_is_no_function_is_refused_with_the_method(method: str) -> None:
    message = await misuse(method, 3)
    assert message.startswith(f"{method} takes a function, got 3 of type int; write {method}(")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "fn", [numbers, ticks, functools.partial(numbers), functools.partial(ticks)]
)
async def test_a_generator_function_is_refused_with_the_method_and_its_name(
    method: str, fn: Any
) -> None:
    message = await misuse(method, fn)
    assert message.startswith(f"{method} takes an async function, but ")
    assert ("numbers is a generator" in message) != ("ticks is an async generator" in message)
    assert message.count(method) == 1 or "worker thread" in message or "loops over" in message


@pytest.mark.parametrize("method", METHODS)
async def test_a_plain_function_is_refused_with_the_method_and_its_name(method: str) -> None:
    fn = functools.partial(plain, 1) if method in ("s.race", "s.any", "s.every") else plain
    message = await misuse(method, fn)
    assert message.startswith(
        f"{method} takes an async function, but plain returned 3, which cannot be awaited; "
        "run plain in a worker thread"
    )
    assert (method == "s.task") == ("s.thread(fn, *args)" in message)
    assert (method == "s.task") != ("partial(anyio.to_thread.run_sync, plain)" in message)


async def test_a_task_that_is_passed_for_a_function_is_told_to_be_awaited() -> None:
    async with scope() as s:
        task: Any = s.task(charge)
        with pytest.raises(TypeError, match=r"<Task 'charge' waiting>.*; it is awaited as it is"):
            s.task(task)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s, t: s.all([t, t]), r"got a list; write s\.all\(\*tasks\)"),
        (lambda s, t: s.all((t,)), r"got a tuple; write s\.all\(\*tasks\)"),
        (lambda s, t: s.all(t, charge), r"the function charge; .*s\.all\(s\.task\(charge, \*args"),
        (lambda s, t: s.all(charge(), charge()), r"object of 'charge'; .*s\.all\(s\.task\(charge,"),
        (lambda s, t: s.race(charge), r"the function charge; write s\.race\(\[charge, \.\.\.\]\)"),
    ],
)
async def test_wrong_arguments_of_combinators_are_told_with_the_right_ones(
    wrong: Callable[[Scope, Any], Awaitable[object]], message: str
) -> None:
    async with scope() as s:
        with pytest.raises(TypeError, match=message):
            await wrong(s, s.task(charge))


async def test_a_task_that_is_not_awaited_says_so() -> None:
    async with scope() as s:
        task: Any = s.task(charge)
        with pytest.raises(TypeError, match=r"await it: err, value = await s\.task\(fn\)"):
            _err, _value = task
        with pytest.raises(TypeError, match="await it"):
            task[1]
        for name in ("value", "error", "unwrap", "unwrap_or"):
            with pytest.raises(AttributeError, match=f"no '{name}'; await it first"):
                getattr(task, name)
        with pytest.raises(AttributeError, match="'Task' object has no attribute 'reslut'"):
            task.reslut  # noqa: B018
        assert not hasattr(task, "value")


async def test_a_scope_says_how_what_other_task_groups_have_is_called_here() -> None:
    async with scope(name="orders") as s:
        wrong: Any = s
        for name in ("create_task", "start_soon", "spawn", "submit"):
            with pytest.raises(AttributeError, match=rf"'orders'> has no '{name}'; .*s\.task"):
                getattr(wrong, name)
        with pytest.raises(AttributeError, match=r"has no 'gather'; .*s\.all"):
            wrong.gather  # noqa: B018
        with pytest.raises(AttributeError, match="'Scope' object has no attribute 'taks'"):
            wrong.taks  # noqa: B018


async def test_an_object_of_ours_does_not_pretend_to_be_what_it_is_not() -> None:
    async with scope() as s:
        assert not inspect.isawaitable(s)
        assert not callable(s)
        assert not isinstance(s, contextlib.AbstractContextManager)


async def test_python_calls_methods_by_the_name_of_their_class() -> None:
    async with scope() as s:
        wrong: Any = s
        for method in ("map", "as_completed", "race", "any", "every", "enter", "task"):
            with pytest.raises(TypeError, match=rf"^Scope\.{method}\(\) missing"):
                getattr(wrong, method)()
        task: Any = s.task(charge)
        with pytest.raises(TypeError, match=r"^Task\.wait\(\) takes"):
            task.wait(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: s.task(charge, dedupe=[1]), r"dedupe must be hashable, got \[1\] of type list"),
        (lambda s: SCOPE(fail_fast="no"), "fail_fast must be a bool, got 'no' of type str"),
        (lambda s: SCOPE(on_error=charge), "on_error must be a function that is not async"),
        (lambda s: SUBSCRIBE(charge), "observer must be a function of an event that is not async"),
        (lambda s: RETRY(on_retry=3), "on_retry must be a function that is not async"),
        (lambda s: RETRY(on_retry=charge), "on_retry must be a function that is not async"),
        (lambda s: RETRY(retry_on=charge), "retry_on must be a function that is not async"),
        (lambda s: RETRY(retry_on=[ValueError]), "retry_on must be .*; write a tuple of them"),
        (lambda s: BREAKER(record=charge), "record must be a function that is not async"),
        (lambda s: BREAKER(record_result=charge), "record_result must be a function that"),
        (lambda s: BREAKER(on_state_change=charge), "on_state_change must be a function"),
        (lambda s: s.cached(60)(charge()), r"cached takes a function, got a coroutine object of"),
        (lambda s: s.cached(60)(ticks), "cached takes an async function, but ticks is an async ge"),
        (lambda s: s.cached(60, key="k"), "key must be a function of the arguments, got 'k' of ty"),
        (lambda s: MEMORY_STORE(clock=max), r"clock must be an object with wall\(\) and elapsed"),
        (lambda s: BREAKER("x")(plain), "guards async functions, got the function plain;"),
    ],
)
async def test_a_wrong_argument_is_named_with_its_value(
    wrong: Callable[[Scope], object], message: str
) -> None:
    async with scope() as s:
        with pytest.raises(TypeError, match=message):
            wrong(s)


async def test_results_of_a_map_say_how_they_are_taken() -> None:
    async with scope() as s:
        results: Any = s.map(charge, [1])
        with pytest.raises(
            TypeError, match=r"<s\.map\(charge\) not started> is looped over with 'a"
        ):
            list(results)
        with pytest.raises(TypeError, match=r"await it: results = await s\.map"):
            results[0]
        results = s.as_completed(charge, [1])
        with pytest.raises(
            TypeError, match=r"<s\.as_completed\(charge\) .* is looped over with 'a"
        ):
            list(results)


async def test_a_lock_that_is_not_entered_says_so() -> None:
    async with scope() as s:
        for wrong, entered in (
            (s.lock("order"), r"s\.lock\(key\) as locked"),
            (s.leader("order"), r"s\.leader\(key\) as term"),
        ):
            for name in ("fencing_token", "ensure", "task", "release"):
                with pytest.raises(AttributeError, match=f"'order'> has no '{name}'; .*{entered}"):
                    getattr(wrong, name)


async def test_enter_says_what_it_takes() -> None:
    async with scope() as s:
        wrong: Any = contextlib.nullcontext
        with pytest.raises(TypeError, match=r"s\.enter takes an async context manager, got <class"):
            await s.enter(wrong)
        wrong = contextlib.suppress(ValueError)
        with pytest.raises(TypeError, match="of type suppress; enter it with 'with'"):
            await s.enter(wrong)


async def test_a_reason_that_is_no_text_is_refused_before_anything_is_cancelled() -> None:
    async with scope() as s:
        task = s.task(anyio.sleep, 0.01)
        wrong: Any = ValueError("x")
        for cancel in (s.cancel, task.cancel):
            with pytest.raises(TypeError, match=r"reason must be a str or None, got ValueError\("):
                cancel(wrong)
        assert (await task).error is None
        task = s.task(anyio.sleep, 1000)
        task.cancel("enough")
        assert isinstance((await task).error, TaskCancelled)


class Client:
    async def __call__(self, order: object = None) -> object:
        return order


@pytest.mark.parametrize("fn", [charge, Client(), functools.partial(Client(), 1), ticks])
async def test_thread_refuses_what_is_async_at_once(fn: Any) -> None:
    async with scope() as s:
        with pytest.raises(TypeError, match=r"s\.thread takes a function that is not async.*s\.ta"):
            s.thread(fn)


async def test_thread_refuses_a_coroutine_object_and_closes_it() -> None:
    async with scope() as s:
        wrong: Any = charge()
        with pytest.raises(
            TypeError, match=r"coroutine object of 'charge'; run charge with s.task"
        ):
            s.thread(wrong)


async def test_thread_closes_a_coroutine_that_its_function_returns_and_names_task() -> None:
    calls: list[object] = []

    def call(order: object) -> object:
        calls.append(order)
        return charge(order)

    async with scope(retry=3) as s:
        with pytest.raises(TypeError, match=r"call returned a coroutine; run call with s\.task\("):
            await s.thread(call, 1)
    assert calls == [1]


async def test_retry_calls_a_plain_function_once() -> None:
    orders: list[object] = []
    wrong: Any = orders.append
    with pytest.raises(TypeError, match=r"append returned None.*retry\.call\("):
        await Retry(4, delay=1000).call(wrong, "A-1")
    assert orders == ["A-1"]


async def test_a_call_with_wrong_arguments_is_not_retried() -> None:
    calls: list[object] = []

    async def pay(order: object) -> None:
        calls.append(order)
        raise TypeError("of the function itself")

    wrong: Any = pay
    told: list[int] = []
    policy = Retry(3, delay=0, on_retry=lambda attempt, error, delay: told.append(attempt))
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        await policy.call(wrong, 1, 2)
    async with scope(retry=policy) as s:
        with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
            (await s.task(wrong, 1, 2)).unwrap()
    assert not told
    with pytest.raises(TypeError, match="of the function itself"):
        await policy.call(wrong, 1)
    assert told == [1, 2]
    assert calls == [1, 1, 1]


async def test_a_wrong_function_of_a_breaker_is_told_with_its_method() -> None:
    breaker = CircuitBreaker("misuse", failure_threshold=1)
    wrong: Any = plain
    for _ in range(3):
        with pytest.raises(TypeError, match=r"breaker\.call takes an async function, but plain"):
            await breaker.call(wrong)


async def test_a_message_shows_only_the_beginning_of_a_long_value() -> None:
    wrong: Any = "x" * 10_000
    async with scope() as s:
        with pytest.raises(TypeError) as caught:
            s.task(wrong)
    assert len(str(caught.value)) < 300


async def test_a_message_is_there_though_the_value_cannot_be_shown() -> None:
    class Sick:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    wrong: Any = Sick()
    async with scope() as s:
        with pytest.raises(TypeError, match=r"s\.task takes a function, got <.*Sick object at"):
            s.task(wrong)
