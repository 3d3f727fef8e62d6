"""What surrounds the function of a task: timeout, slot, retry, circuit breaker, attempt timeout."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from attrs import frozen

from gogoscope._core.callables import NotAwaitableError
from gogoscope._core.slots import Slot, Slots
from gogoscope.events import RetryScheduled, TaskTimedOut
from gogoscope.retry import AttemptTimeoutError, Retry
from gogoscope.scopes.task import Task

if TYPE_CHECKING:
    from gogoscope.circuit_breakers.circuit import Circuit


@frozen
class SafetyNets:
    """What tasks run in; calling it returns the :class:`Pipeline` of one task.

    ``timeout`` is in seconds, for all attempts together.
    """

    timeout: float | None = None
    slots: Slots | None = None
    priority: float = 0
    retry: Retry | None = None
    circuit: Circuit | None = None

    def __call__(self) -> Pipeline:
        """Return what surrounds one task, which stands in line for a slot from now on."""
        slot = None if self.slots is None else Slot(self.slots, self.priority)
        return Pipeline(self.timeout, slot, self.retry, self.circuit)


class Pipeline:
    """Runs a task's function inside its safety nets, outermost first as the parameters stand."""

    __slots__ = ("_attempt_timeout", "_circuit", "_retry", "_slot", "_timeout")

    def __init__(
        self,
        timeout: float | None,
        slot: Slot | None,
        retry: Retry | None,
        circuit: Circuit | None,
    ) -> None:
        self._timeout = timeout
        self._slot = slot
        self._retry = retry
        self._circuit = circuit
        self._attempt_timeout = None if retry is None else retry.attempt_timeout

    async def __call__(self, task: Task[Any]) -> Any:
        """Run the function of a task and return its value, or raise its error."""
        if self._timeout is None:
            return await self._in_slot(task, None)
        with anyio.move_on_after(self._timeout) as deadline:
            return await self._in_slot(task, deadline)
        assert deadline.cancelled_caught
        home = task._home
        if home.observed:
            home.emit(TaskTimedOut(home.name, task.name, self._timeout))
        raise TimeoutError(f"the task took longer than its timeout of {self._timeout:g} s")

    def never_run(self) -> None:
        """Note that the task ends without its function being called."""
        if self._slot is not None:
            self._slot.leave()

    async def _in_slot(self, task: Task[Any], deadline: anyio.CancelScope | None) -> Any:
        slot = self._slot
        if slot is not None:
            await slot.hold()
            task._slot = slot
        attempt = self._bounded if self._circuit is None else self._guarded
        try:
            if self._retry is None:
                return await attempt(task, deadline)
            tell = partial(_tell_retry, task) if task._parent._home.observed else None
            return await self._retry._repeat(tell, attempt, task, deadline)
        finally:
            if slot is not None:
                task._slot = None
                slot.leave()

    async def _guarded(self, task: Task[Any], deadline: anyio.CancelScope | None) -> Any:
        circuit = self._circuit
        assert circuit is not None
        permit = circuit.admit_now() or await circuit.admit(self._longest_call())
        try:
            if self._attempt_timeout is None:
                value = await task._call()
            else:
                value = await self._bounded(task, deadline)
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
            cancelled = task._cancel_requested or task._parent._cancelling
            if deadline is not None and deadline.cancel_called and not cancelled:
                circuit.failed(permit)
            else:
                circuit.abandoned(permit)
            raise
        circuit.returned(permit, value)
        return value

    async def _bounded(self, task: Task[Any], deadline: anyio.CancelScope | None) -> Any:
        if self._attempt_timeout is None:
            return await task._call()
        assert self._retry is not None
        return await self._retry._bounded(task._call)

    def _longest_call(self) -> float:
        bounds = [bound for bound in (self._timeout, self._attempt_timeout) if bound is not None]
        return min(bounds, default=0.0)


def _tell_retry(task: Task[Any], attempt: int, error: Exception, delay: float) -> None:
    home = task._home
    home.emit(RetryScheduled(home.name, task.name, attempt, error, delay))
