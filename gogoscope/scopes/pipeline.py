"""What surrounds a task's function: timeout, slot, retry, circuit breaker, try timeout."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from gogoscope._core.callables import NotAwaitableError
from gogoscope._core.slots import Slot
from gogoscope.events import RetryScheduled, TaskTimedOut
from gogoscope.retry import AttemptTimeoutError, Retry
from gogoscope.scopes.task import Task

if TYPE_CHECKING:
    from gogoscope.circuit_breakers.circuit import Circuit


class Pipeline:
    """Runs a task's function inside its safety nets, outermost first as the parameters stand."""

    __slots__ = ("circuit", "retry", "slot", "timeout")

    def __init__(
        self,
        timeout: float | None,
        slot: Slot | None,
        retry: Retry | None,
        circuit: Circuit | None,
    ) -> None:
        self.timeout = timeout
        self.slot = slot
        self.retry = retry
        self.circuit = circuit

    async def __call__(self, task: Task[Any]) -> Any:
        """Run the function of a task and give its value, or raise its error."""
        if self.timeout is None:
            return await self._in_slot(task, None)
        with anyio.move_on_after(self.timeout) as deadline:
            return await self._in_slot(task, deadline)
        assert deadline.cancelled_caught
        if task.scope.observed:
            task.scope.emit(TaskTimedOut(task.scope.name, task.name, self.timeout))
        raise TimeoutError(f"the task took longer than its timeout of {self.timeout:g} s")

    def never_run(self) -> None:
        """Note that the task ends without its function being called."""
        if self.slot is not None:
            self.slot.leave()

    async def _in_slot(self, task: Task[Any], deadline: anyio.CancelScope | None) -> Any:
        if self.slot is None:
            return await self._retried(task, deadline)
        await self.slot.hold()
        task.slot = self.slot
        try:
            return await self._retried(task, deadline)
        finally:
            task.slot = None
            self.slot.leave()

    async def _retried(self, task: Task[Any], deadline: anyio.CancelScope | None) -> Any:
        if self.retry is None:
            return await self._guarded(task, deadline)
        tell = partial(_tell_retry, task) if task.scope.observed else None
        return await self.retry._repeat(tell, self._guarded, task, deadline)

    async def _guarded(self, task: Task[Any], deadline: anyio.CancelScope | None) -> Any:
        circuit = self.circuit
        if circuit is None:
            return await self._bounded(task)
        permit = circuit.admit_now() or await circuit.admit(self._longest_call())
        try:
            value = await self._bounded(task)
        except AttemptTimeoutError:
            circuit.failed(permit)
            raise
        except NotAwaitableError:
            circuit.abandoned(permit)
            raise
        except Exception as error:
            circuit.raised(permit, error)
            raise
        except BaseException:
            cancelled = task.cancel_requested or task.scope.cancelling
            if deadline is not None and deadline.cancel_called and not cancelled:
                circuit.failed(permit)
            else:
                circuit.abandoned(permit)
            raise
        circuit.returned(permit, value)
        return value

    async def _bounded(self, task: Task[Any]) -> Any:
        if self.retry is None or self.retry.attempt_timeout is None:
            return await task.call()
        return await self.retry._bounded(task.call)

    def _longest_call(self) -> float:
        attempt_timeout = None if self.retry is None else self.retry.attempt_timeout
        bounds = [bound for bound in (self.timeout, attempt_timeout) if bound is not None]
        return min(bounds, default=0.0)


def _tell_retry(task: Task[Any], attempt: int, error: Exception, delay: float) -> None:
    task.scope.emit(RetryScheduled(task.scope.name, task.name, attempt, error, delay))
