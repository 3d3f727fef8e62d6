"""Rules 11 to 13: dedupe, combinators, and seeing what runs."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from gogoscope import (
    CircuitBreaker,
    CircuitOpenError,
    Err,
    Ok,
    Retry,
    Scope,
    ScopeClosedError,
    Task,
    TaskCancelled,
    current_scope,
    scope,
)
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def fail(error: Exception) -> int:
    await anyio.sleep(0)
    raise error


Contestant = Callable[[], Awaitable[object]]


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


# Rule 11: dedupe


async def test_rule_11_calls_with_one_key_share_one_run() -> None:
    calls = 0
    release = anyio.Event()

    async def load(value: int) -> int:
        nonlocal calls
        calls += 1
        await release.wait()
        return value

    async with scope() as s:
        tasks = [s.task(load, number, dedupe="key") for number in range(5)]
        other = s.task(load, 7, dedupe="other")
        await anyio.sleep(0.01)
        release.set()
        assert [(await task).unwrap() for task in tasks] == [0] * 5
        assert len({id(task) for task in tasks}) == 5
        assert (await other).unwrap() == 7
        assert (await s.task(load, 9, dedupe="key")).unwrap() == 9
    assert calls == 3


async def test_rule_11_one_that_is_cancelled_does_not_take_it_from_the_others() -> None:
    release = anyio.Event()

    async def load() -> int:
        await release.wait()
        return 5

    async with scope() as s:
        first, second, third = (s.task(load, dedupe="key") for _ in range(3))
        await anyio.sleep(0.01)
        first.cancel()
        with anyio.move_on_after(0.01):
            await second
        assert isinstance((await first).error, TaskCancelled)
        release.set()
        assert (await third).unwrap() == 5


async def test_rule_11_when_all_are_cancelled_the_run_is_too() -> None:
    finish = Finish()
    async with scope() as s:
        tasks = [s.task(finish.sleep, "run", dedupe="key") for _ in range(3)]
        await anyio.sleep(0.01)
        for task in tasks:
            task.cancel()
    assert finish.ended == ["run"]


async def test_rule_11_an_error_is_shared_and_each_handle_is_looked_at_for_itself() -> None:
    error = ValueError("shared")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            first, _ = (s.task(fail, error, dedupe="key") for _ in range(2))
            assert (await first).error is error
    assert caught.value.exceptions == (error,)


async def test_rule_11_awaiting_oneself_is_an_error() -> None:
    async def load(s: Scope) -> int:
        return (await s.task(load, s, dedupe="key")).unwrap()

    async with scope() as s:
        with anyio.fail_after(5):
            err, _ = await s.task(load, s, dedupe="key")
        assert isinstance(err, RuntimeError)
        assert "waits for itself" in str(err)


# Rule 12: combinators


async def test_rule_12_all_gives_a_tuple_of_results() -> None:
    async with scope() as s:
        results = await s.all(s.task(give, 1), s.task(fail, ValueError("no")), s.task(give, 3))
        assert results[0] == Ok(None, 1)
        assert isinstance(results[1].error, ValueError)
        assert results[2] == Ok(None, 3)
        assert await s.all() == ()
        with pytest.raises(TypeError, match=r"start functions with s\.task"):
            await s.all(give)  # type: ignore[call-overload]


async def test_rule_12_all_that_is_cancelled_cancels_every_task() -> None:
    finish = Finish()
    async with scope() as s:
        tasks = [s.task(finish.sleep, str(number)) for number in range(3)]
        with anyio.move_on_after(0.01):
            await s.all(*tasks)
    assert sorted(finish.ended) == ["0", "1", "2"]


async def test_rule_12_race_gives_the_first_to_settle_and_ends_the_losers() -> None:
    finish = Finish()
    async with scope() as s:
        result = await s.race([partial(finish.sleep, "slow"), partial(finish.sleep, "fast", 0)])
        assert result == Ok(None, "fast")
        assert sorted(finish.ended) == ["fast", "slow"]
        contest: list[Contestant] = [
            partial(finish.sleep, "slow"),
            partial(fail, ValueError("first")),
        ]
        lost = await s.race(contest)
        assert isinstance(lost.error, ValueError)


async def test_rule_12_any_gives_the_first_success_or_all_errors() -> None:
    finish = Finish()
    async with scope() as s:
        contest: list[Contestant] = [
            partial(fail, OSError("no")),
            partial(finish.sleep, "slow"),
            partial(give, 3),
        ]
        result = await s.any(contest)
        assert result == Ok(None, 3)
        assert finish.ended == ["slow"]
        err, _ = await s.any([partial(fail, OSError("a")), partial(fail, KeyError("b"))])
        assert isinstance(err, ExceptionGroup)
        assert {type(error) for error in err.exceptions} == {OSError, KeyError}


async def test_rule_12_stagger_starts_the_next_when_the_first_is_slow_or_failed() -> None:
    started: list[str] = []

    async def attempt(name: str, seconds: float, error: Exception | None = None) -> str:
        started.append(name)
        await anyio.sleep(seconds)
        if error is not None:
            raise error
        return name

    async with scope() as s:
        result = await s.any([partial(attempt, "a", 0), partial(attempt, "b", 0)], stagger=10)
        assert (result.value, started) == ("a", ["a"])
        started.clear()
        with anyio.fail_after(5):
            result = await s.any(
                [partial(attempt, "a", 0, OSError()), partial(attempt, "b", 0)], stagger=100
            )
        assert (result.value, started) == ("b", ["a", "b"])
        started.clear()
        with anyio.fail_after(5):
            race = [partial(attempt, "a", 60), partial(attempt, "b", 60), partial(attempt, "c", 0)]
            result = await s.race(race, stagger=0.01)
        assert (result.value, started) == ("c", ["a", "b", "c"])


@pytest.mark.parametrize("name", ["race", "any"])
async def test_rule_12_a_contest_needs_somebody(name: str) -> None:
    async with scope() as s:
        with pytest.raises(ValueError, match=f"s.{name} needs at least one function"):
            await getattr(s, name)([])


async def test_rule_12_a_contest_that_is_cancelled_ends_everybody() -> None:
    finish = Finish()
    async with scope() as s:
        with anyio.move_on_after(0.01):
            await s.race([partial(finish.sleep, "a"), partial(finish.sleep, "b")])
        assert sorted(finish.ended) == ["a", "b"]


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
async def test_rule_12_map_gives_results_in_order(source: str, limit: int | None) -> None:
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
async def test_rule_12_as_completed_gives_items_and_results_as_they_come(source: str) -> None:
    async def sleep(number: int) -> int:
        await anyio.sleep(number * 0.02)
        return number * 2

    items: Any = [3, 1, 2] if source == "sync" else aiter_of([3, 1, 2])
    async with scope() as s:
        seen = [(item, result.value) async for item, result in s.as_completed(sleep, items)]
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
            while s.running:
                await anyio.sleep(0.001)
    assert {"1", "2"} <= set(finish.ended) <= {"1", "2", "3"}


async def test_rule_12_a_loop_left_early_never_keeps_the_scope_waiting() -> None:
    kept: list[object] = []
    with anyio.fail_after(5):
        async with scope() as s:
            results = s.map(anyio.sleep, [0, *[60] * 10], limit=2)
            kept.append(results)
            async for _ in results:
                break
    assert not s.running


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


async def test_rule_12_all_loses_no_error_when_a_function_was_no_task() -> None:
    def plain() -> Any:
        return 5

    with pytest.raises(TypeError, match="cannot be awaited") as caught:
        async with scope() as s:
            await s.all(s.task(fail, ValueError("of another")), s.task(plain))
    assert any("of another" in note for note in caught.value.__notes__)


async def test_rule_12_a_map_loses_no_error_when_its_function_gave_no_awaitable() -> None:
    def work(item: int) -> Any:
        return 5 if item else fail(ValueError("of another"))

    with pytest.raises(TypeError, match="cannot be awaited") as caught:
        async with scope() as s:
            await s.map(work, [0, 1])
    assert any("of another" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("combine", [Scope.race, Scope.any])
async def test_rule_12_all_functions_are_checked_before_the_first_starts(combine: Any) -> None:
    started: list[int] = []

    async def start() -> None:
        started.append(1)

    async with scope() as s:
        with pytest.raises(TypeError, match=r"s\.task\(start, \*args\)"):
            await combine(s, [start, start()])
        with pytest.raises(TypeError, match=r"s\.task\(start, \*args\)"):
            s.every(1, start())  # type: ignore[arg-type]
    assert not started


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


async def test_rule_12_every_ticks_at_once_and_at_a_fixed_rate(virtual_clock: Any) -> None:
    """See test_testing_aids for the rate; here: an error ends it and is its result."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            raise ValueError("enough")

    async with scope() as s:
        task = s.every(0.001, tick)
        assert "every" in task.name
        err, _ = await task
        assert isinstance(err, ValueError)
        assert ticks == 3
        forever = s.every(0.001, partial(give, 1))
        await anyio.sleep(0.01)
        forever.cancel()
        assert isinstance((await forever).error, TaskCancelled)
        with pytest.raises(ValueError, match="interval must be more than 0"):
            s.every(0, tick)


async def test_rule_12_a_child_inherits_and_shares() -> None:
    calls = 0

    async def flaky() -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ValueError
        return calls

    async with scope(retry=2, concurrency=1, persistence="memory://child") as s:
        await s.cache.set("key", 1)
        async with s.child(name="inner") as inner:
            assert inner.name == "inner"
            assert (await inner.task(flaky)).unwrap() == 2
            assert await inner.cache.get("key") == 1
            assert inner.slots is s.slots
            assert inner.stopping is s.stopping
            async with inner.child(retry=False, concurrency=2) as own:
                assert isinstance((await own.task(flaky)).error, ValueError)
                assert own.slots is not s.slots
    with pytest.raises(ScopeClosedError):
        s.child()


async def test_rule_12_a_child_inside_a_task_lends_the_slot_while_its_block_ends() -> None:
    async def parent(s: Scope) -> None:
        async with s.child() as inner:
            inner.task(give, 1)
            inner.task(give, 2)

    with anyio.fail_after(5):
        async with scope(concurrency=1) as s:
            for _ in range(3):
                s.task(parent, s)


async def test_rule_12_cancelling_a_child_leaves_its_parent_alone() -> None:
    async with scope() as s:
        sibling = s.task(anyio.sleep, 0.01)
        async with s.child() as inner:
            inner.task(anyio.sleep_forever)
            inner.cancel("enough")
        assert (await sibling).error is None
    assert s.cancel_reason is None


async def test_rule_12_entered_resources_are_left_in_reverse_after_the_last_task() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        events.append(f"enter {name}")
        try:
            yield name
        finally:
            events.append(f"leave {name}")

    @asynccontextmanager
    async def with_task_group() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as group:
            yield group

    async def work() -> None:
        await anyio.sleep(0.01)
        events.append("work")

    async with scope() as s:
        assert await s.enter(resource("a")) == "a"
        await s.enter(with_task_group())
        await s.enter(resource("b"))
        s.task(work)
    assert events == ["enter a", "enter b", "work", "leave b", "leave a"]


async def test_rule_12_resources_see_the_exception_and_may_replace_it() -> None:
    seen: list[type] = []

    class Resource:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *details: object) -> bool:
            seen.append(type(details[1]))
            return isinstance(details[1], KeyError)

    async with scope() as s:
        await s.enter(Resource())
        raise KeyError("swallowed")
    with pytest.raises(ValueError, match="not swallowed"):
        async with scope() as s:
            await s.enter(Resource())
            raise ValueError("not swallowed")
    assert seen == [KeyError, ValueError]


async def test_rule_12_resources_are_entered_from_the_body_only() -> None:
    async def elsewhere(s: Scope) -> None:
        await s.enter(scope())

    async with scope() as s:
        err, _ = await s.task(elsewhere, s)
        assert isinstance(err, RuntimeError)
        async with scope():
            with pytest.raises(RuntimeError, match="only in the body"):
                await s.enter(scope())
    with pytest.raises(ScopeClosedError):
        await s.enter(scope())


# Rule 13: seeing


async def test_rule_13_the_tree_shows_scopes_tasks_ages_and_what_each_waits_for() -> None:
    async def inside(s: Scope) -> None:
        async with s.child(name="inner") as inner:
            await inner.task(anyio.sleep_forever, name="sleeper")

    async def holds_lock() -> None:
        async with s.lock("order"):
            await anyio.sleep_forever()

    async def wants_lock() -> None:
        async with s.lock("order"):
            pass

    async with scope(name="outer", concurrency=10, on_exit="cancel") as s:
        first = s.task(anyio.sleep_forever, name="first")
        s.task(inside, s, name="parent")
        s.task(first.wait, name="follower")
        s.task(fail, OSError("broken"), retry=Retry(2, delay=1000), name="flaky")
        s.task(holds_lock, name="holder")
        await anyio.sleep(0.01)
        s.task(wants_lock, name="waiter")
        mapped = s.task(lambda: s.map(lambda _: anyio.sleep_forever(), [1, 2]), name="mapper")
        full = [s.task(anyio.sleep_forever, name=f"filler {number}") for number in range(9)]
        await anyio.sleep(0.03)
        tree = s.tree()
        lines = {line.split(" [")[0].strip(): line for line in tree.splitlines()}
        assert lines["scope outer"].startswith("scope outer [open, 0.")
        assert lines["scope inner"].startswith("    scope inner")
        assert lines["task sleeper"].startswith("      task sleeper [running, 0.")
        assert lines["task follower"].endswith("waits for task first")
        assert lines["task waiter"].endswith("waits for lock 'order'")
        assert "holds_lock (test_combinators.py:" in lines["task holder"]
        assert "waits for a slot" in tree
        assert "2 running, 0 finished" in tree
        assert lines["task flaky"].endswith("waits for try 2 after OSError('broken')")
        del mapped, full


async def test_rule_13_stopping_is_set_before_the_grace_period_and_cancel_comes_after(
    anyio_backend: Any,
) -> None:
    if sys.platform == "win32":
        pytest.skip("signals of this kind do not exist here")
    import os
    import signal

    events: list[str] = []

    async def polite() -> None:
        await s.stopping.wait()
        events.append("stopping")

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            events.append("cancelled")

    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=0.05)
            s.task(polite)
            s.task(stubborn)
            await anyio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
    assert events == ["stopping", "cancelled"]
    assert s.cancel_reason == "SIGTERM"


async def test_rule_13_a_second_signal_cancels_at_once() -> None:
    if sys.platform == "win32":
        pytest.skip("signals of this kind do not exist here")
    import os
    import signal

    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=60, signals=[signal.SIGINT, signal.SIGTERM])
            await anyio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            await s.stopping.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()
    assert s.cancel_reason == "SIGINT"


async def test_rule_13_a_block_that_stops_by_itself_is_not_cancelled() -> None:
    if sys.platform == "win32":
        pytest.skip("signals of this kind do not exist here")
    import os
    import signal

    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=60)
            await anyio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            await s.stopping.wait()
    assert s.cancel_reason is None


def test_results_are_what_they_say() -> None:
    assert Ok(None, 1) == (None, 1)
    assert Err(ValueError(), None)[1] is None
    assert isinstance(Task, type)
