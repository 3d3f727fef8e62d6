"""The result of a task, and those who await it.

An outcome has a result exactly once. Until then it counts those who await it: if the last of them
is cancelled, nobody needs the result, and the outcome is abandoned. Awaiting it is not reading its
error: the result itself notes that, whoever holds it.

``_result`` is the result, once there is one. ``_queued`` tells that what it comes from has not
begun. ``_awaiters`` counts those who await it now, ``_ended`` wakes them, ``_watcher`` is called
once. ``_was_cancelled`` tells a cancellation from an error of the function, ``_interrupted`` that
what ended the function is no result (``KeyboardInterrupt``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

import anyio

from gogoscope._core.callables import NotAwaitableError
from gogoscope._core.cancellation import checkpoint
from gogoscope._core.context import Frame, slots_around, slots_lent
from gogoscope._core.errors import is_a
from gogoscope._core.interrupts import uninterrupted
from gogoscope._core.slots import Slots
from gogoscope.events import OnError
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.results import Err, Ok
from gogoscope.scopes.runner import Runner
from gogoscope.scopes.works import Works

T_co = TypeVar("T_co", covariant=True)


class Parent(Frame, Protocol):
    """The scope of an outcome, as outcomes know it."""

    _cancelling: bool
    _in_body: bool
    _runner: Runner
    """What runs its tasks, while its block is open."""
    _works: Works
    """What runs in its block."""

    @property
    def _slots(self) -> Slots | None:
        """What bounds how many of its tasks run at a time."""
        ...

    @property
    def name(self) -> str:
        """The name of the scope."""
        ...

    def _check_here(self) -> None:
        """Make sure that the scope's event loop runs the caller.

        :raises RuntimeError: in another thread or event loop
        """
        ...

    def _stops(self, frame: Frame | None, /) -> bool:
        """Return whether stopping its work ends what runs in a frame."""
        ...

    def _why_cancelled(self) -> str | None:
        """Return the reason for the result of a task that the scope cancelled."""
        ...

    def _note_settled(self, outcome: Outcome[Any], failed: Err | None) -> None:
        """Note that an outcome has its result, and watch an error until somebody reads it."""
        ...


class Outcome(Generic[T_co]):
    """A result to come; ``await`` it.

    ``_parent`` is the scope that it belongs to, ``_on_error`` is called with an error that nobody
    reads.
    """

    _parent: Parent
    _on_error: OnError | None
    _result: Ok[T_co] | Err | None
    _queued: bool
    _awaiters: int
    _ended: anyio.Event | None
    _watcher: Callable[[], object] | None
    _interrupted: bool = False
    _was_cancelled: bool = False

    @property
    def name(self) -> str:
        """What it is called, for people."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self._result is not None

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``succeeded``, ``failed`` or ``cancelled``, for people."""
        if self._result is None:
            return "waiting" if self._queued else "running"
        if isinstance(self._result, Ok):
            return "succeeded"
        return "cancelled" if self._was_cancelled else "failed"

    def cancel(self, reason: str | None = None) -> None:
        """Cancel what the result would come from."""
        raise NotImplementedError

    @uninterrupted
    async def wait(self) -> None:
        """Wait until there is a result.

        Unlike awaiting the task itself, a cancellation of this call does not cancel the task.
        """
        if self._result is None:
            self._parent._check_here()
            self._refuse_circle()
            await self._wait()

    async def _wait(self) -> None:
        async with slots_lent():
            await self._end_of_it().wait()

    def __await__(self) -> Generator[Any, Any, Ok[T_co] | Err]:
        if self._result is None:
            self._parent._check_here()
            self._refuse_circle()
            self._attach()
            try:
                if slots_around():
                    yield from self._wait().__await__()
                else:
                    yield from self._end_of_it().wait().__await__()
            except BaseException:
                self._detach(abandoned=True)
                raise
            self._detach(abandoned=False)
        if self._interrupted:
            yield from checkpoint().__await__()
        return self._result_for_reader()

    def _refuse_circle(self) -> None:
        """Refuse to wait for a result inside of what it comes from.

        :raises RuntimeError: there
        """
        raise NotImplementedError

    def _stop(self) -> None:
        """Cancel what the result would come from, whatever for."""
        raise NotImplementedError

    def _attach(self) -> None:
        """Count one more who awaits the result."""
        self._awaiters += 1

    def _detach(self, *, abandoned: bool) -> None:
        """Count one less; if it was the last, and was cancelled, nobody needs the result.

        The collector closes code that awaits in whichever thread happens to need memory.
        """
        self._awaiters -= 1
        if abandoned and not self._awaiters and self._result is None:
            self._parent._runner.call_here(self._abandon)

    def _abandon(self) -> None:
        if not self._awaiters:
            self.cancel("everything that awaited the task was cancelled")

    def _result_for_reader(self) -> Ok[T_co] | Err:
        """Return the result, for somebody who may read it.

        :raises NotAwaitableError: if the function was none that can be awaited
        """
        result = self._result
        assert result is not None
        if type(result) is not Ok:
            raise_mistake(self)
        return result

    def _end(self, result: Ok[Any] | Err) -> None:
        """Set the result, and wake those who await it."""
        self._result = result
        if self._ended is not None:
            self._ended.set()

    def _end_cancelled(self, reason: str | None, error: Exception | None = None) -> None:
        """Set the result of what was cancelled; ``error`` is what says so already."""
        self._was_cancelled = True
        self._end(Err(TaskCancelled(reason) if error is None else error, None))

    def _end_of_it(self) -> anyio.Event:
        if self._ended is None:
            self._ended = anyio.Event()
        return self._ended


async def let_interrupt_happen(*outcomes: Outcome[Any]) -> None:
    """Let an interrupt that ended one of the tasks have its chance to cancel the caller, too."""
    if any(outcome._interrupted for outcome in outcomes):
        await checkpoint()


def mistake_of(outcome: Outcome[Any]) -> Err | None:
    """Return the result of a function that returned nothing that can be awaited."""
    result = outcome._result
    if isinstance(result, Err) and is_a(result._unread, NotAwaitableError):
        return result
    return None


def raise_mistake(*outcomes: Outcome[Any]) -> None:
    """Read the errors of functions that returned nothing that can be awaited, and raise one.

    :raises NotAwaitableError: if there are any
    """
    mistakes = [mistake for outcome in outcomes if (mistake := mistake_of(outcome)) is not None]
    for mistake in mistakes:  # all of them, since they say the same
        mistake._read()
    if mistakes:
        mistakes[0].unwrap()
