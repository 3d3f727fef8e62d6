"""The block of a scope while it is open: the work that ends with it, and what cancels it.

Everything that runs in the block is work: tasks, the workers of maps, and the blocks of scopes
inside, wherever they were opened. :mod:`gogoscope.scopes.lifecycle` tells how it begins and ends.

``_works`` is all that runs, ``_blocks`` are the blocks among it. ``_cancelling`` tells that the
scope cancels it, ``_why`` for what reason; ``_fatal`` is the error that the block is to raise,
``_exit`` is what an observer exited with, ``_timed_out`` tells that its time is over. ``_host`` is
the id of the task that the block was opened in; ``_in_body`` tells that its body runs,
``_body_cancelled`` that the body itself was cancelled, and ``_tasks_cut`` that tasks were when the
body had ended. ``_around`` is the block of the scope that this one is a child of, ``_apart`` tells
that it is to be stopped for itself when that one is; ``_outer`` is the frame in which this one was
opened. ``_innermost`` is the frame that the body runs in, further in than this one if it has
entered the block of a scope as a resource.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import anyio

from gogoscope._core.arguments import check_reason
from gogoscope._core.cancellation import is_cancellation_of_caller, says_cancelled
from gogoscope._core.context import Frame
from gogoscope._core.event_loop import HOST, EventLoop
from gogoscope._core.interrupts import uninterrupted_methods
from gogoscope._core.launches import Group, Launched, end_what_never_began
from gogoscope._core.resources import Resources
from gogoscope._core.slots import Slot, Slots
from gogoscope._core.stopping import Stopping
from gogoscope.events import OnError, ScopeCancelled
from gogoscope.scopes.outcome import Outcome
from gogoscope.scopes.results import Err
from gogoscope.scopes.runner import Runner
from gogoscope.scopes.services import Services
from gogoscope.scopes.task import Task
from gogoscope.scopes.unhandled import Unhandled
from gogoscope.scopes.works import Works

T = TypeVar("T")

FROM_OUTSIDE = "cancelled from outside its scope"


@uninterrupted_methods
class Block:
    """What a scope is besides its methods: a block, and the work that ends with it.

    ``cancel_reason`` is what ``cancel`` was called with. ``stopping`` is an event that a graceful
    shutdown sets before it cancels, here and in the scopes inside.

    :param slots: bounds how many of its tasks run at a time, if anything does
    :param timeout: in seconds
    :param inline: whether tasks may run inside their awaiters, and share workers
    :param around: the block of the scope that it is a child of
    """

    def __init__(
        self,
        home: Services,
        *,
        slots: Slots | None,
        timeout: float | None,
        fail_fast: bool,
        cancel_on_exit: bool,
        on_error: OnError | None,
        stopping: Stopping,
        inline: bool,
        around: Block | None,
    ) -> None:
        self._home = home
        self._inline = inline
        self._around = around
        self._slots = slots
        self._timeout = timeout
        self._fail_fast = fail_fast
        self._cancel_on_exit = cancel_on_exit
        self._on_error = on_error
        self.stopping = stopping
        self.cancel_reason: str | None = None
        self._unhandled = Unhandled()
        self._works = Works()
        self._blocks: set[Block] = set()
        self._inside: set[Frame] = set()
        self._outer = self._innermost = None
        self._began = math.nan
        self._cancelling = False
        self._why: str | None = None
        self._fatal: Exception | None = None
        self._exit: BaseException | None = None
        self._timed_out = self._used = False
        self._group: Group | None = None
        self._cancel_scope: anyio.CancelScope | None = None
        self._resources: Resources | None = None
        self._host = 0
        self._in_body = self._body_cancelled = self._tasks_cut = False
        self._depth = 0
        self._slot: Slot | None = None  # it is never one's; read for each task
        self._apart = False

    _runner: Runner
    _loop: EventLoop
    _outer: Frame | None
    _innermost: Frame | None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        uninterrupted_methods(cls)

    _bounded_by: Slots | None = None

    def __repr__(self) -> str:
        return f"<Scope {self.name!r}>"

    @property
    def name(self) -> str:
        """The name given, else the module and qualified name of the function that made it."""
        return self._home.name

    @property
    def _number(self) -> int:
        """Its number in events."""
        return self._home.id

    def _number_around(self) -> int:
        """Return the number of what the block stands in."""
        return 0 if self._outer is None else self._outer._number

    def _told(self) -> str:
        """Return what people are told of it in a tree besides its age."""
        return ""

    def _check_open(self) -> Group:
        """Return the task group of the open block.

        :raises ScopeClosedError: outside the block
        :raises RuntimeError: in another thread or event loop
        """
        self._home.check_open()
        assert self._group is not None
        return self._group

    def _check_here(self) -> None:
        """Make sure that the event loop of the block runs the caller, if the block is open.

        :raises RuntimeError: in another thread or event loop
        """
        if self._group is not None:
            self._home.check_here()

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the block and its tasks; the block then ends without an exception.

        :raises RuntimeError: in another thread or event loop
        """
        check_reason(reason)
        self._check_here()
        if self._group is not None and not self._cancelling:
            self.cancel_reason = reason
            self._cancel(reason)

    def _is_in_body(self) -> bool:
        """Return whether the task of the event loop that runs here runs the body."""
        return self._in_body and self._host == anyio.get_current_task().id

    def _note_timeout(self) -> None:
        if self._cancelling or self._timeout is None or self._cancel_scope is None:
            return
        # asyncio calls off a scope only when its event loop has its turn
        late = anyio.current_time() >= self._cancel_scope.deadline
        if late or self._cancel_scope.cancel_called:
            self._timed_out = True
            self._cancel(f"the timeout of its scope, {self._timeout:g} s, passed")

    def _fail(self, error: Exception, why: str) -> None:
        """Cancel the scope; its block then raises ``error``, unless something else goes first."""
        if self._fatal is None:
            self._fatal = error
        self._cancel(why)

    def _exit_with(self, raised: BaseException) -> None:
        """Cancel the scope, since an observer exits; its block then raises what that raised."""
        if self._exit is None:
            self._exit = raised
        if self._group is not None:  # else nothing of it is left to cancel
            self._cancel("an observer exited")

    def _cancel(self, why: str | None, *, body: bool = True) -> None:
        assert self._cancel_scope is not None
        if not self._cancelling:
            self._cancelling = True
            self._why = why
            if self._in_body and body:
                self._body_cancelled = True
                self._cancel_scope.cancel(why)
                for block in list(self._blocks):
                    block._stop()
            else:  # the body that stops its scope, or closes resources, goes on
                self._tasks_cut = not self._in_body and len(self._works) > 0
                self._works.stop()
            self._runner.drop()
            home = self._home
            if home.observed:
                event = ScopeCancelled(home.name, why, id=home.id, parent=self._number_around())
                home.emit(event)

    def _why_cancelled(self) -> str | None:
        """Return the reason for the result of a task that this scope cancelled."""
        self._note_timeout()
        return self._why if self._cancelling else FROM_OUTSIDE

    def _start(self, task: Task[T]) -> Task[T]:
        """Start a task at the next checkpoint, or end it at once if the scope is cancelled."""
        if self._cancelling:
            task._end_cancelled(self._why)
            return task
        task._context = copy_context()
        task._queued = True
        runner = self._runner
        runner.queue.append(task)
        self._works.running.add(task)
        if not runner.served:
            try:
                runner.serve(task)
            except BaseException:
                runner.queue.pop()
                self._works.running.discard(task)
                if task._guard is not None:
                    task._guard.never_run()
                raise
        return task

    def _start_here(self, task: Task[Any]) -> Awaitable[object] | None:
        """Start a task that only its awaiter, the caller, knows: inside of it, if it may run there.

        :returns: what to await until it has ended, ``None`` if it has
        """
        runner = self._runner
        if self._cancelling or runner.queue or not runner.admits(task):
            return self._start(task)
        task._context = copy_context()
        self._works.running.add(task)
        rest: Awaitable[object] | None = runner.begin_inside(task)
        return rest

    def _unbegun(self) -> list[Launched]:
        """Return the tasks of asyncio that have not begun, or never will."""
        return self._works.unbegun(self._runner, self._home)

    def _note_lost(self) -> None:
        """End soon what asyncio itself has cancelled before its first step."""
        self._runner.call_soon(partial(end_what_never_began, self._unbegun()))

    def _reaches(self, frame: Frame | None) -> bool:
        """Return whether cancelling the block is certain to end what runs here, in a frame.

        The body is left alone when it stops its own scope, or has ended and resources are closed:
        so code that stands beside it, in a task group of the body, has to be part of some work.
        """
        where = self._runner.reaches()
        return (where == HOST and self._in_body) or (where != 0 and self._stops(frame))

    def _stops(self, frame: Frame | None) -> bool:
        """Return whether stopping the work of the block ends what runs in a frame."""
        while frame is not None and frame is not self:
            around = frame._outer
            if not isinstance(frame, Block) and (around is self or self._owns(frame)):
                return True
            frame = around
        return False

    def _owns(self, frame: Frame) -> bool:
        """Return whether a frame is that of a task or a child of the scope, or of one inside."""
        owner: Frame | None = frame
        while owner is not None and owner is not self:
            owner = owner._around if isinstance(owner, Block) else owner._outer
        return owner is self

    def _stop(self) -> None:
        """Cancel the block with the one around, if nothing else is certain to end it.

        A resource of that one is left when its body has ended: only the work in it is cancelled.
        """
        around = self._around
        if around is not None and self._apart:
            self._cancel(around._why_cancelled())
        elif around is not None and not around._in_body and self._host == around._host:
            self._note_timeout()  # that may be why the one around is cancelled
            self._cancel(around._why_cancelled(), body=False)

    def _blocks_in_body(self) -> list[Block]:
        """Return the open blocks of scopes inside that the task of the body has entered."""
        return [block for block in self._blocks if block._host == self._host]

    def _note_settled(self, outcome: Outcome[Any], failed: Err | None) -> None:
        """Note that a task has its result, and watch an error until somebody reads it."""
        try:
            if failed is not None and self._fail_fast and not self._cancelling:
                self._fail(failed.error, f"task {outcome.name!r} of its scope failed")
            elif failed is not None:
                unread = self._unhandled.watch(failed, self, self._on_error)
                unread.shared_by(outcome)
                if not unread.awaited:
                    unread.taken()
        finally:  # an observer may exit
            self._works.ended(outcome)

    def _watch(self, failed: Err) -> None:
        """Watch a result that is not a task's until somebody reads its error."""
        error = failed._unread
        merely_cancelled = self._cancelling and says_cancelled(error)
        if not (merely_cancelled or is_cancellation_of_caller(error)):
            self._unhandled.watch(failed, self, self._on_error)
