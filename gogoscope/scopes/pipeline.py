"""What surrounds the function of a task: timeout, slot, retry, circuit breaker, attempt timeout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from attrs import frozen

from gogoscope._core.cancellation import error_of_call
from gogoscope._core.slots import Slot, Slots
from gogoscope.events import RetryScheduled, TaskTimedOut
from gogoscope.retry import Retry
from gogoscope.scopes.task import Task

if TYPE_CHECKING:
    from gogoscope.circuit_breakers.circuit import Circuit
    from gogoscope.circuit_breakers.snapshot import Permit

Around = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Runs all attempts of a task, or returns what came of them before."""


@frozen
class SafetyNets:
    """What tasks run in; calling it returns the :class:`Pipeline` of one task.

    ``timeout`` is in seconds, for all attempts together. ``around`` is what runs all attempts, if
    they are to have their effect once.
    """

    timeout: float | None = None
    slots: Slots | None = None
    priority: float = 0
    retry: Retry | None = None
    circuit: Circuit | None = None
    around: Around | None = None

    def __call__(self) -> Pipeline:
        """Return what surrounds one task, which stands in line for a slot from now on."""
        slot = None if self.slots is None else Slot(self.slots, self.priority)
        return Pipeline(self.timeout, slot, self.retry, self.circuit, self.around)


class Pipeline:
    """Runs a task's function inside its safety nets, outermost first as the parameters stand.

    ``_unjudged`` is the permit of the call that is being cancelled. What that means for the circuit
    depends on who cancels it, which shows when the task's own timeout is left: the timeout is a
    failure, everything else counts as nothing.
    """

    __slots__ = (
        "_around",
        "_attempt_timeout",
        "_circuit",
        "_retry",
        "_slot",
        "_timeout",
        "_unjudged",
        "runs_inside",
    )

    def __init__(
        self,
        timeout: float | None,
        slot: Slot | None,
        retry: Retry | None,
        circuit: Circuit | None,
        around: Around | None,
    ) -> None:
        self._around = around
        self._timeout = timeout
        self._slot = slot
        self._retry = retry
        self._circuit = circuit
        # A slot is waited for, and a timeout is for the function alone.
        self.runs_inside = timeout is None and slot is None
        self._attempt_timeout = None if retry is None else retry.attempt_timeout
        self._unjudged: Permit | None = None

    async def __call__(self, task: Task[Any]) -> Any:
        """Run the function of a task and return its value, or raise its error."""
        if self._timeout is None:
            return await self._in_slot(task)
        deadline = anyio.move_on_after(self._timeout)
        try:
            with deadline:
                return await self._in_slot(task)
        finally:
            self._judge_cancelled(timed_out=deadline.cancelled_caught)
        home = task._home
        if home.observed:
            home.emit(TaskTimedOut(home.name, task.name, self._timeout))
        raise TimeoutError(f"the task took longer than its timeout of {self._timeout:g} s")

    def never_run(self) -> None:
        """Note that the task ends without its function being called."""
        if self._slot is not None:
            self._slot.leave()

    async def _in_slot(self, task: Task[Any]) -> Any:
        slot = self._slot
        if slot is not None:
            await slot.hold()
            task._slot = slot
        try:
            if self._around is None:
                return await self._attempts(task)
            return await self._around(partial(self._attempts, task))
        finally:
            if slot is not None:
                task._slot = None
                slot.leave()

    def _attempts(self, task: Task[Any]) -> Awaitable[Any]:
        attempt = self._bounded if self._circuit is None else self._guarded
        if self._retry is None:
            return attempt(task)
        tell = partial(_tell_retry, task) if task._parent._home.observed else None
        return self._retry._repeat(tell, attempt, task)

    async def _guarded(self, task: Task[Any]) -> Any:
        circuit = self._circuit
        assert circuit is not None
        permit = circuit.admit_now() or await circuit.admit()
        try:
            if self._attempt_timeout is None:
                value = await task._call()
            else:
                value = await self._bounded(task)
        except BaseException as raised:  # noqa: BLE001 - it goes on, or the error that it is
            error = error_of_call(raised)
            try:
                if error is None:
                    self._unjudged = permit
                    if self._timeout is None:
                        self._judge_cancelled(timed_out=False)
                    raise
                circuit.raised(permit, error)
                if error is raised:
                    raise
                raise error
            finally:
                del error  # whose traceback has this frame
        circuit.returned(permit, value)
        return value

    def _judge_cancelled(self, *, timed_out: bool) -> None:
        if self._unjudged is None:
            return
        assert self._circuit is not None
        if timed_out:
            self._circuit.failed(self._unjudged)
        else:
            self._circuit.abandoned(self._unjudged)
        self._unjudged = None

    async def _bounded(self, task: Task[Any]) -> Any:
        if self._attempt_timeout is None:
            return await task._call()
        assert self._retry is not None
        return await self._retry._bounded(task._call)


def _tell_retry(task: Task[Any], attempt: int, error: Exception, delay: float) -> None:
    home = task._home
    home.emit(RetryScheduled(home.name, task.name, attempt, error, delay))
