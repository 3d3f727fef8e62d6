"""The life of a scope: how its block begins, what ends with it, and what leaves it."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio

from gogoscope._core.background import Home, Service, tell_subscribers
from gogoscope._core.cancellation import (
    cancelled_natively,
    end_what_never_began,
    left_by,
    pending_cancellation,
    split_cancellation,
    unwrapped,
)
from gogoscope._core.context import Frame, current, lent_to
from gogoscope._core.errors import annotate, description, first_of, lead_to
from gogoscope._core.slots import Slot, Slots
from gogoscope.events import (
    ErrorUnseen,
    ScopeCancelled,
    ScopeEnded,
    ScopeStarted,
    log_error,
    notify,
    subscribers,
)
from gogoscope.exceptions import ScopeClosedError, TaskCancelled
from gogoscope.scopes.task import Task
from gogoscope.scopes.unhandled import UnseenErrors, group_of

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from gogoscope.events import Event, OnError, OnEvent
    from gogoscope.scopes.services import Services
    from gogoscope.scopes.workers import Stream

T = TypeVar("T")
S = TypeVar("S", bound=Service)

_FROM_OUTSIDE = "cancelled from outside its scope"


class Lifetime:
    """What a scope is besides its methods: a block, and the tasks that end with it.

    ``cancel_reason`` is what ``cancel`` was given; ``cancelling`` tells whether the scope is
    cancelling its tasks.
    """

    services: Services
    slots: Slots | None

    def __init__(
        self,
        *,
        name: str | Callable[[], str],
        timeout: float | None,
        fail_fast: bool,
        cancel_on_exit: bool,
        on_error: OnError | None,
        on_event: OnEvent | None,
        stopping: anyio.Event | None,
    ) -> None:
        self._name = name
        self._timeout = timeout
        self._fail_fast = fail_fast
        self._cancel_on_exit = cancel_on_exit
        self._on_error = on_error
        self._stopping = stopping
        self.on_event = on_event
        self.unseen_errors = UnseenErrors()
        self.cancel_reason: str | None = None
        self.cancelling = False
        self.running: set[Task[Any]] = set()
        self.streams: set[Stream[Any, Any]] = set()
        self.open_streams: set[Stream[Any, Any]] = set()
        self.children: set[Home] = set()
        self.began = math.nan
        self.host: Frame | None = None
        self._timed_out = False
        self._why: str | None = None
        self._fatal: Exception | None = None
        self._idle: anyio.Event | None = None
        self._used = self._ended = False
        self._group: TaskGroup | None = None
        self._cancel_scope: anyio.CancelScope | None = None
        self._resources: AsyncExitStack | None = None
        self._body = 0
        self._body_cancelled = False
        self._unshielded: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Scope {self.name!r}>"

    @property
    def name(self) -> str:
        """The name given, else the module and qualified name of the function that made it."""
        if not isinstance(self._name, str):
            self._name = self._name()
        return self._name

    @property
    def outer(self) -> Frame | None:
        """The frame around the scope's block."""
        return self.host

    @property
    def home(self) -> Self:
        """The scope itself."""
        return self

    @property
    def slot(self) -> Slot | None:
        """``None``: the body holds no slot of its own."""
        return None

    @property
    def bounded_by(self) -> Slots | None:
        """``None``: a body needs no slot."""
        return None

    @property
    def stopping(self) -> anyio.Event:
        """An event that a graceful shutdown sets before it cancels; shared with scopes inside."""
        if self._stopping is None:
            self._stopping = anyio.Event()
        return self._stopping

    @property
    def observed(self) -> bool:
        """Whether anybody wants the scope's events."""
        return self.on_event is not None or bool(subscribers)

    def spawn(self, work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
        """Run something in the background, beside the scope's tasks.

        :param brief: whether the end of the scope gives it a moment to finish by itself
        :returns: ``False`` if the scope has ended, and nothing is run
        """
        return self.services.spawn(work, brief=brief)

    def store(self) -> object:
        """Return the open store of the scope."""
        return self.services.store()

    def attach(self, kind: type[S], make: Callable[[Home], S]) -> S:
        """Return the scope's only service of a kind, made when it is first asked for."""
        return self.services.attach(self, kind, make)

    def unfinished(self) -> list[Task[Any] | Stream[Any, Any]]:
        """Return what the scope's end waits for."""
        return [*self.running, *self.streams]

    def check_open(self) -> TaskGroup:
        """Return the task group of the open block.

        :raises ScopeClosedError: outside the block
        """
        if self._group is None:
            raise ScopeClosedError(f"the block of {self!r} is not open; nothing can start in it")
        return self._group

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the block and its tasks; the block then ends without an exception."""
        if self._group is not None and not self.cancelling:
            self.cancel_reason = reason
            self._cancel(reason)

    def fail(self, error: Exception, why: str) -> None:
        """Cancel the scope; its block then raises ``error``, unless something else goes first."""
        if self._fatal is None:
            self._fatal = error
        self._cancel(why)

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Enter a context manager that is left, in reverse order, after the last task.

        Where the body itself was cancelled (``s.cancel()`` while it ran, a timeout), so is what
        its exit awaits, as everywhere in a cancelled block: shield what must not be cut short.

        :param resource: an async context manager
        :returns: what entering it gives
        :raises ScopeClosedError: outside the block
        :raises RuntimeError: from anywhere but the body of the block
        """
        self.check_open()
        if self._body != anyio.get_current_task().id or current.get() is not self:
            raise RuntimeError(
                "s.enter works only in the body of the scope's own block; in a task, write "
                "'async with' or open a scope of its own"
            )
        if self._resources is None:
            self._resources = AsyncExitStack()
        return await self._resources.enter_async_context(resource)

    async def __aenter__(self) -> Self:
        if self._used:
            raise ScopeClosedError(f"{self!r} was used before; a scope has one block")
        self._used = True
        await self.services.open()
        deadline = math.inf if self._timeout is None else anyio.current_time() + self._timeout
        self._cancel_scope = anyio.CancelScope(deadline=deadline)
        self._cancel_scope.__enter__()
        group = anyio.create_task_group()
        self._group = await group.__aenter__()
        self.services.start(self._group)
        self.began = time.monotonic()
        self._body = anyio.get_current_task().id
        self.host = current.get()
        if self.host is not None:
            self.host.children.add(self)
        current.set(self)
        if self.observed:
            self.emit(ScopeStarted(self.name))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        self._body = 0
        self._note_timeout()
        unwrapped_own = isinstance(exc, TaskCancelled) and self.cancelling
        if exc is not None and not unwrapped_own:
            cancelled = split_cancellation(exc)[1] is None
            why = f"the block of its scope ended with {type(exc).__name__}"
            self._cancel(_FROM_OUTSIDE if cancelled else why)
        elif self._cancel_on_exit:
            self._cancel("the block of its scope ended")
        outgoing = await self._end(None if unwrapped_own else exc)
        self._ended = True
        errors, further = self.unseen_errors.take()
        if self._fatal is not None and outgoing is not self._fatal:
            errors.insert(0, self._fatal)
        if outgoing is not None:
            self._report_unseen(outgoing, errors, further)
        elif errors:
            outgoing = group_of(errors, further, self.name)
        if self.observed:
            self.emit(ScopeEnded(self.name, outgoing, time.monotonic() - self.began))
        if outgoing is None or outgoing is exc:
            return outgoing is None
        raise outgoing from outgoing.__cause__

    async def _end(self, exc: BaseException | None) -> BaseException | None:
        """End everything that belongs to the scope; give the exception that leaves the block."""
        assert self._cancel_scope is not None
        leaving = exc
        try:
            async with lent_to(self.slots):
                leaving = first_of(leaving, await self._wait_for_tasks())
        except anyio.get_cancelled_exc_class() as cancelled_without_slot:
            leaving = first_of(leaving, cancelled_without_slot)
        self._note_timeout()
        if self._resources is not None:
            leaving = await self._close(self._resources, leaving)
            leaving = first_of(leaving, await self._wait_for_tasks())  # which the closing began
        leaving = first_of(leaving, await self._shielded(self.services.settle))
        leaving, interrupt = await self._leave_group(leaving)
        current.set(self.host)
        if self.host is not None:
            self.host.children.discard(self)
        # anyio may take a cancellation that knows no shield for one of its own, and swallow it
        leaving = first_of(left_by(self._cancel_scope, leaving), self._unshielded)
        # asyncio has let an interrupt out of its event loop already, and cancels all tasks natively
        if interrupt is not None and (leaving is None or not cancelled_natively()):
            lead_to(interrupt, leaving)
            leaving = interrupt
        if leaving is None:
            leaving = first_of(await pending_cancellation(), self._own_error())
        return first_of(leaving, await self._shielded(self.services.close))

    async def _wait_for_tasks(self) -> BaseException | None:
        """Wait until nothing runs; give a cancellation that came in the meantime."""
        cancelled: BaseException | None = None
        while True:
            if self._nothing_takes():
                for stream in list(self.open_streams):
                    stream.close()
                if not self.streams:
                    return cancelled
            self._idle = anyio.Event()
            if self.cancelling:
                await self._shielded(self._end_what_never_began)
                cancelled = first_of(cancelled, await self._shielded(self._idle.wait))
                continue
            try:
                await self._idle.wait()
            except anyio.get_cancelled_exc_class() as raised:
                self._note_timeout()
                self._cancel(_FROM_OUTSIDE)
                cancelled = raised

    async def _end_what_never_began(self) -> None:
        await end_what_never_began(self.unfinished())
        self._wake_if_idle()

    def _nothing_takes(self) -> bool:
        """Whether nothing of the scope is left that could take from an open stream."""
        return not self.running and self.streams <= self.open_streams

    async def _close(
        self, resources: AsyncExitStack, leaving: BaseException | None
    ) -> BaseException | None:
        """Leave the entered resources with an exception; give what is left of it."""
        assert self._cancel_scope is not None
        try:
            if leaving is None:
                await resources.aclose()
            elif await resources.__aexit__(type(leaving), leaving, leaving.__traceback__):
                leaving = None
        except BaseException as raised:  # noqa: BLE001 - it is given back
            cut_short = split_cancellation(raised)[1] is None
            if cut_short and self._cancel_scope.cancel_called and not self._body_cancelled:
                self._timed_out = True
            if leaving is None or not cut_short:
                leaving = raised
        self._note_timeout()
        return leaving

    async def _leave_group(
        self, leaving: BaseException | None
    ) -> tuple[BaseException | None, BaseException | None]:
        """Leave the task group; give what goes on, and an interrupt that ended a task."""
        group, self._group = self.check_open(), None
        mere: BaseException | None = None
        if leaving is not None and split_cancellation(leaving)[1] is None:
            mere = leaving  # it may be the group's own, which only the group can tell
        try:
            swallowed = await group.__aexit__(None if mere is None else type(mere), mere, None)
        except BaseException as raised:  # noqa: BLE001 - judged by what it is
            cancellation, interrupt = split_cancellation(unwrapped(raised))
            leaving = first_of(None if leaving is mere else leaving, cancellation, mere)
            return leaving, None if interrupt is None else unwrapped(interrupt)
        return None if mere is not None and swallowed else leaving, None

    async def _shielded(self, step: Callable[[], Awaitable[object]]) -> BaseException | None:
        """Take a step that the scope's end needs; give a cancellation that knows no shield.

        That is asyncio's own, which comes once: what is left of the step is then taken again.
        """
        cancelled: BaseException | None = None
        for _ in range(2):
            try:
                with anyio.CancelScope(shield=True):
                    await step()
            except anyio.get_cancelled_exc_class() as raised:
                self._cancel(_FROM_OUTSIDE)
                cancelled = self._unshielded = raised
            else:
                break
        return cancelled

    def _own_error(self) -> Exception | None:
        if self._fatal is not None:
            return self._fatal
        if self._timed_out:
            return TimeoutError(
                f"scope {self.name!r} took longer than its timeout of {self._timeout:g} s"
            )
        return None

    def _note_timeout(self) -> None:
        if self.cancelling or self._timeout is None or self._cancel_scope is None:
            return
        # asyncio calls off a scope only when its event loop has its turn
        late = anyio.current_time() >= self._cancel_scope.deadline
        if late or self._cancel_scope.cancel_called:
            self._timed_out = True
            self._cancel(f"the timeout of its scope, {self._timeout:g} s, passed")

    def _cancel(self, why: str | None) -> None:
        assert self._cancel_scope is not None
        if not self.cancelling:
            self.cancelling = True
            self._why = why
            if self._body:
                self._body_cancelled = True
                self._cancel_scope.cancel(why)
            else:  # the scope's resources are closed inside its cancel scope
                for work in self.unfinished():
                    work.stop()
            if self.observed:
                self.emit(ScopeCancelled(self.name, why))

    def why_cancelled(self) -> str | None:
        """Return the reason for the result of a task that this scope cancelled."""
        self._note_timeout()
        return self._why if self.cancelling else _FROM_OUTSIDE

    def settled(self, task: Task[Any], error: Exception | None, *, looked_at: bool) -> None:
        """Note that a task has its result."""
        self.running.discard(task)
        if error is not None:
            if self._fail_fast and not self.cancelling:
                self.fail(error, f"task {task.name!r} of its scope failed")
            elif not looked_at:
                self.unlooked(task, error)
        self._wake_if_idle()

    def stream_ended(self, stream: Stream[Any, Any]) -> None:
        """Note that nothing of a stream runs any more."""
        self.streams.discard(stream)
        self._wake_if_idle()

    def _wake_if_idle(self) -> None:
        if self._idle is not None and self._nothing_takes():
            self._idle.set()

    def unlooked(self, task: Task[Any], error: Exception) -> None:
        """Note that nobody looks at the error of a task that has ended."""
        on_error = task.on_error or self._on_error
        if on_error is not None and notify(on_error, error):
            return
        if self._ended:
            self._tell_unseen(error)
        else:
            self.unseen_errors.add(task, error)

    def emit(self, event: Event) -> None:
        """Send an event to the scope's observer and to those who listen to the whole process."""
        notify(self.on_event, event)
        tell_subscribers(event)

    def _report_unseen(
        self, outgoing: BaseException, errors: list[Exception], further: int
    ) -> None:
        cancellation, _ = split_cancellation(outgoing)
        for error in errors:
            if error is outgoing:
                continue
            if cancellation is None:
                unseen = f"unseen error of a task of scope {self.name!r}: {description(error)}"
                annotate(outgoing, unseen)
            self._tell_unseen(error)
        if further:
            log_error("%d more errors of scope %r were not looked at", further, self.name)

    def _tell_unseen(self, error: Exception) -> None:
        log_error("an error of scope %r was not looked at", self.name, error=error)
        self.emit(ErrorUnseen(self.name, error))
