"""Starting tasks in a scope, each inside the safety nets that it is given or inherits."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from gogoscope._core.arguments import check_name, check_observer, check_priority
from gogoscope._core.callables import call_in_thread, callable_name, check_function
from gogoscope._core.durations import seconds
from gogoscope._core.slots import Slot
from gogoscope.events import OnError
from gogoscope.scopes import doors
from gogoscope.scopes.block import Lifetime
from gogoscope.scopes.options import CircuitOption, RetryOption, circuit_option, retry_option
from gogoscope.scopes.pipeline import Pipeline
from gogoscope.scopes.task import Task

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from gogoscope.circuit_breakers.breaker import CircuitBreaker
    from gogoscope.circuit_breakers.circuit import Circuit
    from gogoscope.retry import Retry

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Starting(Lifetime):
    """The methods of a scope that start a task."""

    retry: Retry | None
    circuit_breaker: CircuitBreaker | None
    needs_pipeline: bool
    leaders: dict[Hashable, Task[Any]]

    def task(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        priority: float = 0,
        dedupe: Hashable = None,
        on_error: OnError | None = None,
    ) -> Task[T]:
        """Start a function at the next checkpoint; ``err, value = await`` what this returns.

        An option left out is the scope's. Pass keyword arguments with ``functools.partial``.

        :param fn: an async function, or any that returns an awaitable
        :param args: its positional arguments
        :param name: the task's name; the function's if left out
        :param timeout: seconds for all tries together; ``math.inf`` for no limit
        :param retry: a policy, a number of attempts, or ``False``
        :param circuit_breaker: a policy, or ``False``
        :param priority: higher goes first where ``concurrency`` makes tasks wait
        :param dedupe: a key: while a task with that key runs, this gives its outcome, too, and
            ``fn`` is not called; the options of the first count
        :param on_error: gets the error if the task ends with nobody awaiting it
        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if ``fn`` is not a function that can be awaited
        """
        group = self._group or self.check_open()
        check_function(fn)
        if name is not None:
            check_name(name)
        if on_error is not None:
            check_observer("on_error", on_error)
        if dedupe is not None:
            leader: Task[T] | None = self.leaders.get(dedupe)
            if leader is None or leader.cancel_requested:
                leader = self.task(
                    fn,
                    *args,
                    name=name,
                    timeout=timeout,
                    retry=retry,
                    circuit_breaker=circuit_breaker,
                    priority=priority,
                    on_error=on_error,
                )
                if not leader.done:
                    self.leaders[dedupe] = leader
                    leader.watcher = functools.partial(self._forget, dedupe, leader)
            return self._follow(leader, name, on_error)
        pipeline: Pipeline | None = None
        if (
            self.needs_pipeline
            or timeout is not None
            or retry is not None
            or circuit_breaker is not None
        ):
            pipeline = self.pipelines(timeout, retry, circuit_breaker, priority)()
        task: Task[T] = Task(self, fn, args, name, pipeline, on_error)
        if self.cancelling and pipeline is not None:
            pipeline.never_run()
        return self.start(task, group)

    def start(self, task: Task[T], group: TaskGroup) -> Task[T]:
        """Start a task at the next checkpoint, or end it at once if the scope is cancelled."""
        if self.cancelling:
            task.end_cancelled(self._why)
        else:
            self.running.add(task)
            try:
                task.start(group)
            except BaseException:
                self.running.discard(task)
                raise
        return task

    def thread(
        self,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        priority: float = 0,
        on_error: OnError | None = None,
    ) -> Task[T]:
        """Start a function that is not async in a worker thread.

        A timeout or cancellation takes effect when the thread ends, since it cannot be stopped.
        The options are those of :meth:`task`.

        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if ``fn`` is an async function
        """
        if not callable(fn) or inspect.iscoroutinefunction(fn):
            raise TypeError(
                f"s.thread takes a function that is not async, got {fn!r}; "
                "run an async function with s.task(fn, *args)"
            )
        return self.task(
            functools.partial(call_in_thread, fn, *args),
            name=name or callable_name(fn),
            timeout=timeout,
            retry=retry,
            circuit_breaker=circuit_breaker,
            priority=priority,
            on_error=on_error,
        )

    def _forget(self, key: Hashable, leader: Task[Any]) -> None:
        if self.leaders.get(key) is leader:
            del self.leaders[key]

    def _follow(self, leader: Task[T], name: str | None, on_error: OnError | None) -> Task[T]:
        """Return a handle of its own for the outcome of a task."""

        async def outcome() -> T:
            await leader.wait()
            return leader.look().unwrap()

        follower: Task[T] = Task(self, outcome, (), name or leader.name, None, on_error)
        leader.attach()
        follower.watcher = lambda: leader.detach(abandoned=follower.state == "cancelled")
        follower.follows = leader
        self.start(follower, self.check_open())
        if follower.done:
            follower.watcher()
        return follower

    def pipelines(
        self,
        timeout: float | timedelta | None,
        retry: RetryOption,
        circuit_breaker: CircuitOption,
        priority: float = 0,
    ) -> Callable[[], Pipeline]:
        """Check the options of tasks; give what makes the safety nets of one.

        A pipeline stands in the line for a slot from the beginning.
        """
        limit = math.inf
        if timeout is not None:
            limit = seconds("timeout", timeout, infinite=True)
        breaker = (
            self.circuit_breaker if circuit_breaker is None else circuit_option(circuit_breaker)
        )
        policy = self.retry if retry is None else retry_option(retry)
        circuit = None if breaker is None else doors.circuit(self, breaker)
        check_priority(priority)
        return functools.partial(
            self._pipeline, None if limit == math.inf else limit, policy, circuit, priority
        )

    def _pipeline(
        self, timeout: float | None, retry: Retry | None, circuit: Circuit | None, priority: float
    ) -> Pipeline:
        slot = None if self.slots is None else Slot(self.slots, priority)
        return Pipeline(timeout, slot, retry, circuit)
