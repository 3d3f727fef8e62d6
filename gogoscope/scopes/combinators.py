"""Ways to put tasks together: all of them, the first of them, one for each item, one for ever."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar, TypeVarTuple, overload

import anyio

from gogoscope._core.arguments import check_count, check_observer
from gogoscope._core.callables import (
    async_function,
    async_functions,
    close_coroutines,
    short_name,
    told,
)
from gogoscope._core.clock import monotonic
from gogoscope._core.context import slots_lent
from gogoscope._core.durations import seconds
from gogoscope.events import OnError
from gogoscope.scopes.lifecycle import Lifecycle
from gogoscope.scopes.mapping import Completed, Mapped
from gogoscope.scopes.options import CircuitOption, RateOption, RetryOption, TaskOptions
from gogoscope.scopes.outcome import let_interrupt_happen, raise_mistake
from gogoscope.scopes.pipeline import SafetyNets
from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.task import Task
from gogoscope.scopes.ticking import Ticker
from gogoscope.scopes.workers import DEFAULT_LIMIT, Workers

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
Item = TypeVar("Item")
Ts = TypeVarTuple("Ts")


class Combinators(Lifecycle):
    """The methods of a scope that put tasks together."""

    _own_nets: tuple[SafetyNets | None] | None
    """What surrounds tasks without options of their own, once that is known."""

    def task(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        on_error: OnError | None = None,
    ) -> Task[T]:
        """Start a function; what a scope adds here."""
        raise NotImplementedError

    def _safety_nets(self, options: TaskOptions | None = None) -> SafetyNets | None:
        """Return what surrounds tasks with these options; what a scope adds here."""
        raise NotImplementedError

    @overload
    async def all(self, first: Task[T1], /) -> tuple[Ok[T1] | Err]: ...

    @overload
    async def all(
        self, first: Task[T1], second: Task[T2], /
    ) -> tuple[Ok[T1] | Err, Ok[T2] | Err]: ...

    @overload
    async def all(
        self, first: Task[T1], second: Task[T2], third: Task[T3], /
    ) -> tuple[Ok[T1] | Err, Ok[T2] | Err, Ok[T3] | Err]: ...

    @overload
    async def all(
        self, first: Task[T1], second: Task[T2], third: Task[T3], fourth: Task[T4], /
    ) -> tuple[Ok[T1] | Err, Ok[T2] | Err, Ok[T3] | Err, Ok[T4] | Err]: ...

    @overload
    async def all(self, *tasks: Task[T]) -> tuple[Ok[T] | Err, ...]: ...

    async def all(self, *tasks: Task[Any]) -> tuple[Ok[Any] | Err, ...]:
        """Wait for all tasks, and return their results in the same order."""
        return await _join_all(tasks)

    async def race(
        self,
        fns: Iterable[Callable[[], Awaitable[T]]],
        *,
        stagger: float | timedelta | None = None,
    ) -> Ok[T] | Err:
        """Run functions side by side, and return the result of the first to settle.

        The others are cancelled, and have ended when this returns.

        :param fns: async functions without arguments (``functools.partial`` binds some)
        :param stagger: seconds after which the next function starts, too; all at once if left out
        :raises ValueError: if there is none
        """
        return await _first(self, fns, stagger, succeeding=False)

    async def any(
        self,
        fns: Iterable[Callable[[], Awaitable[T]]],
        *,
        stagger: float | timedelta | None = None,
    ) -> Ok[T] | Err:
        """Run functions side by side, and return the result of the first to succeed.

        The others are cancelled, and have ended when this returns. If all fail, the result is
        an ``ExceptionGroup`` of their errors.

        :param fns: async functions without arguments (``functools.partial`` binds some)
        :param stagger: seconds after which the next function starts, too, unless the ones before
            have failed by then (hedging); all at once if left out
        :raises ValueError: if there is none
        """
        return await _first(self, fns, stagger, succeeding=True)

    def map(
        self,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item] | AsyncIterable[Item],
        limit: int | None = None,
        *,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
    ) -> Mapped[T]:
        """Run a function on each item, and return the results in the order of the items.

        ``await`` returns all results as a list, ``async for`` yields one after the other as they
        come. Nothing starts before. Leaving the loop early cancels what runs.

        One task steps ``items`` and closes it at the end (a generator, or an iterator with
        ``aclose``), so it may hold scopes, timeouts and locks from one item to the next. What it
        raises is raised here, after the results of the items before. Each item, and ``items``, has
        a copy of the context variables with which this was called.

        :param fn: an async function of one item
        :param items: any iterable or async iterable, taken from only as far as needed
        :param limit: how many items may run, or wait to be delivered, at a time; 100 if left out
        :param timeout: seconds for all attempts of one item together
        :param retry: a policy, a number of attempts, or ``False``
        :param circuit_breaker: a policy, or ``False``
        :param rate_limit: bounds how often it is called, each attempt counted; or ``False``
        :raises TypeError: if ``fn`` or ``items`` are not what they must be
        """
        fn = async_function(fn, "s.map({}, items)")
        options = TaskOptions(timeout, retry, circuit_breaker, rate_limit=rate_limit)
        return Mapped(self._workers(fn, items, limit, options))

    def as_completed(
        self,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item] | AsyncIterable[Item],
        limit: int | None = None,
        *,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
    ) -> Completed[Item, T]:
        """Run a function on each item, and yield ``(item, result)`` as they come: ``async for``.

        Nothing starts before the loop does. Leaving it early cancels what runs. The parameters
        are those of :meth:`map`.
        """
        fn = async_function(fn, "s.as_completed({}, items)")
        options = TaskOptions(timeout, retry, circuit_breaker, rate_limit=rate_limit)
        return Completed(self._workers(fn, items, limit, options))

    def every(
        self,
        interval: float | timedelta,
        fn: Callable[[], Awaitable[object]],
        *,
        on_error: OnError | None = None,
    ) -> Task[None]:
        """Run a function at once and then at a fixed rate, until the scope is stopping.

        Ticks that would overlap with the last one are skipped. An error ends it, and is the
        result of the task that this returns; it is logged at once if nobody awaits that task. With
        ``on_error``, it goes on after errors. Each tick has the scope's retry and circuit breaker.

        :param interval: seconds from the start of one tick to the start of the next
        :param fn: an async function without arguments
        :param on_error: is called with the error of each tick that fails
        """
        pause = seconds("interval", interval)
        fn = async_function(fn, "s.every(interval, {})")
        if on_error is not None:
            check_observer("on_error", on_error)
        ticker = Ticker(self, pause, fn, on_error)
        # Without a slot, which it would hold between the ticks; each tick has one.
        ticking: Task[None] = Task(self, ticker.run, (), ticker.name, None, None)
        self._check_open()
        return self._start(ticking)

    def _workers(
        self,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item] | AsyncIterable[Item],
        limit: int | None,
        options: TaskOptions,
    ) -> Workers[Item, T]:
        self._check_open()
        if not isinstance(items, Iterable | AsyncIterable):
            raise TypeError(f"items must be iterable, got {items!r} of type {type(items).__name__}")
        limit = DEFAULT_LIMIT if limit is None else check_count("limit", limit)
        return Workers(self, fn, items, limit, self._safety_nets(options))


async def _join_all(tasks: tuple[Task[Any], ...]) -> tuple[Ok[Any] | Err, ...]:
    """Wait for all tasks, and return their results."""
    for task in tasks:
        if not isinstance(task, Task):
            close_coroutines(tasks)
            raise _no_task(task)
    for task in tasks:
        if not task.done:
            task._parent._check_here()
        task._refuse_circle()
    for task in tasks:
        task._attach()
    abandoned = True
    try:
        for task in tasks:
            await task.wait()
        await let_interrupt_happen(*tasks)
        abandoned = False
    finally:
        for task in tasks:
            task._detach(abandoned=abandoned)
    raise_mistake(*tasks)
    return tuple([task._result_for_reader() for task in tasks])


def _no_task(value: object) -> TypeError:
    """Return the error for something that is not a task; it shows what to write."""
    if isinstance(value, list | tuple | set | frozenset):
        return TypeError(f"s.all takes tasks, got a {type(value).__name__}; write s.all(*tasks)")
    return TypeError(
        f"s.all takes tasks, got {told(value)}; start functions with s.task first: "
        f"s.all(s.task({short_name(value)}, *args), ...)"
    )


async def _first(
    scope: Combinators,
    fns: Iterable[Callable[[], Awaitable[T]]],
    stagger: float | timedelta | None,
    *,
    succeeding: bool,
) -> Ok[T] | Err:
    """Run functions side by side, and return the result of the first that settles, or succeeds.

    The others are cancelled, and have ended when this returns.

    :param stagger: seconds after which the next function starts, too; a failure
        starts the next at once when only a success counts
    """
    method = "s.any" if succeeding else "s.race"
    waiting = async_functions(fns, method + "([{}, ...])")[::-1]
    if not waiting:
        raise ValueError(f"{method} needs at least one function, got none")
    pause = 0.0 if stagger is None else seconds("stagger", stagger, zero=True)
    # Lent until the losers have ended, since one of them may hold the slot that this task lent.
    async with slots_lent():
        return await _first_of(scope, waiting, pause, succeeding=succeeding)


async def _first_of(
    scope: Combinators,
    waiting: list[Callable[[], Awaitable[T]]],
    pause: float,
    *,
    succeeding: bool,
) -> Ok[T] | Err:
    tasks: list[Task[T]] = []
    settled: list[Task[T]] = []
    bell = _Bell()
    due = monotonic()
    try:
        while True:
            while waiting and (monotonic() >= due or (succeeding and len(settled) == len(tasks))):
                task = scope.task(waiting.pop())
                task._watcher = bell.ring
                task._attach()
                tasks.append(task)
                due = monotonic() + pause
            settled = [task for task in tasks if task.done]
            await let_interrupt_happen(*settled)
            raise_mistake(*settled)
            for task in settled:
                if not succeeding or isinstance(task._result, Ok):
                    _take(other for other in settled if other is not task)
                    return task._result_for_reader()
            errors = _take(settled)
            if len(settled) == len(tasks):
                if waiting:
                    continue
                failed = Err(ExceptionGroup("none of the functions succeeded", errors), None)
                scope._watch(failed)
                return failed
            patience = max(0.0, due - monotonic()) if waiting else None
            with anyio.move_on_after(patience):
                await bell.wait()
    finally:
        for task in tasks:
            task.cancel("another function was first")
        try:
            with anyio.CancelScope(shield=True):
                for task in tasks:
                    await task.wait()
        finally:  # asyncio's own cancellation knows no shield
            for task in tasks:
                task._detach(abandoned=False)


def _take(tasks: Iterable[Task[Any]]) -> list[Exception]:
    """Read the errors of tasks that are not the first: only that one is asked for."""
    results = [task._result_for_reader() for task in tasks]
    return [result.error for result in results if result.error is not None]


class _Bell:
    """Wakes the waiting code when it rang since the last wait."""

    def __init__(self) -> None:
        self._rang = anyio.Event()

    def ring(self) -> None:
        self._rang.set()

    async def wait(self) -> None:
        await self._rang.wait()
        self._rang = anyio.Event()
