"""What surrounds the function of a task: timeout, slot, retry, breaker, rate limit, try timeout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from attrs import field, frozen

from gogoscope._core.cancellation import error_of_call
from gogoscope._core.slots import Slot, Slots
from gogoscope.events import RetryScheduled, TaskQueued, TaskStarted, TaskTimedOut, subscribers
from gogoscope.exceptions import RateLimitExceededError
from gogoscope.scopes.stage import Guard
from gogoscope.scopes.task import Task

if TYPE_CHECKING:
    from gogoscope.circuit_breakers.circuit import Circuit
    from gogoscope.circuit_breakers.snapshot import Permit
    from gogoscope.rate_limits.permit import Limiter
    from gogoscope.retry import Retry

Running: TypeAlias = "Coroutine[Any, Any, Any]"

Around = Callable[[Callable[[], Awaitable[Any]]], Running]
"""Runs all attempts of a task, or returns what came of them before."""


@frozen(eq=False, repr=False)
class SafetyNets:
    """What surrounds the functions of tasks, outermost first as the attributes stand.

    ``timeout`` is in seconds, for all attempts together. ``around`` is what runs all attempts, if
    they are to have their effect once. What is not there is not passed through: each coroutine
    costs as much as a bare await.
    """

    timeout: float | None = None
    slots: Slots | None = None
    priority: float = 0
    around: Around | None = None
    retry: Retry | None = None
    circuit: Circuit | None = None
    limiter: Limiter | None = None
    runs_inside: bool = field(init=False)
    lines_up: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        # A timeout is for the function alone, not for its awaiter.
        object.__setattr__(self, "runs_inside", self.timeout is None)

    def guard(self) -> Guard:
        """Return what surrounds one task, which stands in line for a slot from now on."""
        return self if self.slots is None else _InLine(self, Slot(self.slots, self.priority))

    def never_run(self) -> None:
        """Do nothing: the task waited for nothing."""

    def __call__(self, task: Task[Any], slot: Slot | None = None) -> Running:
        """Run the function of a task and return its value, or raise its error."""
        if self.timeout is not None:
            return self._timed(task, slot, self.timeout)
        return self._in_slot(task, slot, None)

    async def _timed(self, task: Task[Any], slot: Slot | None, timeout: float) -> Any:
        deadline = anyio.move_on_after(timeout)
        unjudged: list[Permit] = []
        try:
            with deadline:
                return await self._in_slot(task, slot, unjudged)
        finally:
            if unjudged:
                assert self.circuit is not None
                timed_out = deadline.cancelled_caught
                judge = self.circuit.failed if timed_out else self.circuit.abandoned
                judge(unjudged.pop())
        if task._home.observed:
            task._tell(TaskTimedOut, timeout)
        raise TimeoutError(f"the task took longer than its timeout of {timeout:g} s")

    def _in_slot(
        self, task: Task[Any], slot: Slot | None, unjudged: list[Permit] | None
    ) -> Running:
        if slot is None and self.around is None:
            return self._attempts(task, unjudged)
        run = partial(self._attempts, task, unjudged)
        if self.around is not None:
            run = partial(self.around, run)
        return run() if slot is None else _holding(task, slot, run)

    def _attempts(self, task: Task[Any], unjudged: list[Permit] | None) -> Running:
        retry = self.retry
        attempt: Callable[..., Running] = task._call
        arguments: tuple[Any, ...] = ()
        if retry is not None and retry.attempt_timeout is not None:
            attempt, arguments = retry._bounded, (attempt,)
        limiter = self.limiter
        if limiter is not None and limiter.policy.retry_after is not None:
            attempt, arguments = limiter.heeding, (attempt, *arguments)
        if self.circuit is not None:
            attempt, arguments = _guarded, (self.circuit, limiter, unjudged, attempt, *arguments)
        elif limiter is not None:
            attempt, arguments = _limited, (limiter, attempt, *arguments)
        if retry is None:
            return attempt(*arguments)
        tell = partial(_tell_retry, task) if task._parent._home.observed else None
        return retry._repeat(tell, attempt, *arguments)


@frozen(eq=False, repr=False)
class _InLine:
    """What surrounds a task that stands in line for a slot, or holds it."""

    _nets: SafetyNets
    _slot: Slot
    runs_inside: bool = False
    lines_up: bool = True

    def never_run(self) -> None:
        """Leave the line."""
        self._slot.leave()

    def __call__(self, task: Task[Any]) -> Running:
        """Run the function of a task, in its slot."""
        return self._nets(task, self._slot)


async def _holding(task: Task[Any], slot: Slot, run: Callable[[], Running]) -> Any:
    observed = task._parent._home.on_event is not None or subscribers
    if not slot._held:
        if observed:
            task._tell(TaskQueued)
        await slot.hold()
        task._began = monotonic()
    if observed:
        task._tell(TaskStarted)
    task._slot = slot
    try:
        return await run()
    finally:
        task._slot = None
        slot.leave()


async def _limited(limiter: Limiter, attempt: Callable[..., Running], *arguments: Any) -> Any:
    await limiter.admit()
    return await attempt(*arguments)


async def _guarded(
    circuit: Circuit,
    limiter: Limiter | None,
    unjudged: list[Permit] | None,
    attempt: Callable[..., Running],
    *arguments: Any,
) -> Any:
    """Call a function through a circuit.

    :param limiter: what the call waits for, once the circuit has admitted it
    :param unjudged: takes the permit of a call that is being cancelled: what that means for the
        circuit shows when the task's own timeout is left, which is a failure; ``None`` if it has
        none, and all that cancels it counts as nothing
    """
    permit = circuit.admit_now() or await circuit.admit()
    if limiter is not None:
        permit = await _waited(circuit, permit, limiter)
    try:
        value = await attempt(*arguments)
    except BaseException as raised:  # noqa: BLE001 - it goes on, or the error that it is
        error = error_of_call(raised)
        try:
            if error is None:
                if unjudged is None:
                    circuit.abandoned(permit)
                else:
                    unjudged.append(permit)
                raise
            circuit.raised(permit, error)
            if error is raised:
                raise
            raise error
        finally:
            del error  # whose traceback has this frame
    circuit.returned(permit, value)
    return value


async def _waited(circuit: Circuit, permit: Permit, limiter: Limiter) -> Permit:
    """Wait for a rate limit, which is no part of the call; return the permit for the call."""
    try:
        await limiter.admit()
    except RateLimitExceededError as error:
        circuit.raised(permit, error)
        raise
    except BaseException:
        circuit.abandoned(permit)
        raise
    return circuit.begun_now(permit)


def _tell_retry(task: Task[Any], attempt: int, error: Exception, delay: float) -> None:
    task._tell(RetryScheduled, attempt, error, delay)
