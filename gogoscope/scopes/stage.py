"""How the functions of tasks are run: on a stage, step by step, each in its own context.

A stage is a generator that runs one task after the other. It belongs to a host: a worker, or the
code that awaits the task. The host sends it a task, in the context of that task, and gets back what
the function awaits where it suspends first, or ``ENDED``: most functions that need no more are done
then. Else the host awaits :func:`steps`. Since a stage stays, a task costs one call of the
interpreter from C, and no exception that tells its value.

What is no result goes on to the host: a cancellation that concerns it, and an interrupt. A stage
that let one through is of no use any more.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from time import monotonic
from typing import Any, Protocol, TypeAlias

from gogoscope._core.background import Home
from gogoscope._core.context import Frame, set_current
from gogoscope._core.interrupts import interruptible, uninterrupted
from gogoscope.events import subscribers

ENDED: object = types.SimpleNamespace()
"""What a stage yields when a task has ended."""

_COROUTINE: Any = types.CoroutineType

Stage: TypeAlias = "Generator[Any, Any, None]"


class Guard(Protocol):
    """What surrounds one run of a task: its safety nets."""

    @property
    def runs_inside(self) -> bool:
        """Whether a task that it surrounds may run inside its awaiter."""
        ...

    @property
    def lines_up(self) -> bool:
        """Whether a task waits in it for a slot, and tells itself when its function starts."""
        ...

    def __call__(self, task: Any, /) -> Coroutine[Any, Any, Any]:
        """Run the function of a task and return its value, or raise its error."""
        ...

    def never_run(self) -> None:
        """Note that the task ends without its function being called."""
        ...


class Around(Protocol):
    """The scope of a task, as a stage knows it."""

    _cancelling: bool

    @property
    def _home(self) -> Home:
        """Receives the events of its tasks."""
        ...


class Performed(Frame, Protocol):
    """A task, as a stage knows it."""

    _fn: Callable[..., Awaitable[Any]] | None
    _args: tuple[Any, ...]
    _guard: Guard | None
    """What surrounds its function."""
    _context: Context | None
    _coroutine: Coroutine[Any, Any, Any] | None
    """What runs its function, while it runs."""
    _began: float | None
    """When it suspended first, or when it began, if somebody listens."""
    _before: int
    """How many of asyncio's own cancellations its awaiter had seen when it suspended first."""
    _natively: BaseException | None
    """asyncio's own cancellation, if that was what it went on with when it had suspended last."""

    _cancel_requested: bool
    """Whether it was cancelled."""

    @property
    def _parent(self) -> Around:
        """The scope that it belongs to."""
        ...

    def _tell_started(self) -> None:
        """Tell those who listen that it begins, and note when."""
        ...

    def _never_run(self) -> None:
        """End without being run."""
        ...

    def _succeed(self, value: Any, /) -> None:
        """End with what the function returned."""
        ...

    def _judge(self, raised: BaseException, host: types.FrameType, /) -> BaseException | None:
        """End with what the function raised; return what goes on to the host."""
        ...


class Keeper(Protocol):
    """What runs tasks inside their awaiters, as :class:`Inside` knows it."""

    spare: Stage | None
    """A stage for the next of them."""

    @property
    def arrivals(self) -> Callable[[], Callable[[], int]]:
        """Returns what counts asyncio's own cancellations that the current code has seen."""
        ...


class Inside:
    """The awaiter that a task runs inside of, which asyncio itself may cancel.

    ``_before`` of its cancellations had come when the task suspended first, ``_seen`` when last.
    """

    __slots__ = ("_arrived", "_before", "_keeper", "_seen")

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._arrived = keeper.arrivals()
        self._before = self._seen = self._arrived()

    def suspends(self) -> None:
        """Note that the task suspends once more."""
        self._seen = self._arrived()

    def throws(self, task: Performed, thrown: BaseException) -> None:
        """Tell the task what is thrown into it."""
        task._before = self._before
        task._natively = thrown if self._arrived() > self._seen else None

    def ended(self, stage: Stage) -> None:
        """Keep the stage for the next task."""
        self._keeper.spare = stage


@uninterrupted
@types.coroutine
def stage(*, takes_interrupts: bool) -> Stage:
    """Run the functions of the tasks that are sent, one after the other, each to its result.

    It yields what they await, and ``ENDED`` after each, and once before the first.

    :param takes_interrupts: whether a function is to be interrupted, but nothing around it
    :raises BaseException: what concerns the host
    """
    call: Any
    while True:
        task = call = value = goes_on = parent = None  # an error may keep this frame
        task = yield ENDED
        parent = task._parent
        if task._cancel_requested or parent._cancelling:
            task._never_run()
            continue
        set_current(task)
        try:
            if parent._home.on_event is not None or subscribers:
                task._tell_started()
            if task._guard is not None:
                call = task._guard(task)
            else:
                call = task._fn(*task._args)
                if takes_interrupts or type(call) is not _COROUTINE:
                    call = interruptible(call)
            task._coroutine = call
            value = yield from call
        except BaseException as raised:  # noqa: BLE001 - judged by what it is
            goes_on = task._judge(raised, sys._getframe())
        else:
            task._succeed(value)
            continue
        if goes_on is not None:
            try:
                raise goes_on
            finally:
                del task, call, goes_on, parent


@uninterrupted
@types.coroutine
def steps(
    stage: Stage, task: Performed, passed: Any, inside: Inside | None = None
) -> Generator[Any, Any, None]:
    """Let a task go on from where it suspended first, to its end.

    :param stage: what runs it
    :param passed: what it awaits; then what passes between it and the event loop
    :param inside: the awaiter, if the task runs inside of it
    :raises BaseException: what concerns the host
    """
    if task._began is None:
        task._began = monotonic()
    step: Any
    try:
        while passed is not ENDED:
            if inside is not None:
                inside.suspends()
            try:
                passed = yield passed
            except BaseException as thrown:  # noqa: BLE001 - thrown into the function
                if inside is not None:
                    inside.throws(task, thrown)
                step, passed = stage.throw, thrown
            else:
                step = stage.send
            assert task._context is not None
            passed = task._context.run(step, passed)
        if inside is not None:
            inside.ended(stage)
    finally:
        step = None  # errors may keep this frame
        del stage, task, passed, inside
