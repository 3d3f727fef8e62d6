"""The block of a scope: how it begins, what ends with it, and what leaves it.

A block has a task group and, around it, a cancel scope. Everything that runs in the block is work:
tasks, and the workers of maps. The block ends in this order, whatever goes wrong on the way:

1. The body has ended. If it raised, or the scope was cancelled, all work is stopped.
2. The block waits until no work is left. Maps that nobody takes from any more are closed.
3. The resources that the body entered are closed, in reverse order.
4. The services settle: the store is told everything, locks are released.
5. The task group, then the cancel scope, then the store are left.

What leaves the block is decided once, at the end, by :func:`verdict`. Until then cancellation from
outside is noted, and the steps that are left are taken shielded from it. asyncio's own cancellation
knows no shield, but comes once: a step that it cut is taken again.

``_works`` is all that runs. ``_cancelling`` tells that the scope cancels it, ``_why`` for what
reason; ``_fatal`` is the error that the block is to raise, ``_timed_out`` tells that its time is
over. ``_body`` is the id of the task that the body runs in, while it does; ``_body_cancelled``
tells that the body itself was cancelled. ``_unshielded`` is a cancellation that knew no shield.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio

from gogoscope._core.arguments import check_reason, check_resource
from gogoscope._core.cancellation import (
    cancelled_natively,
    left_by,
    pending_cancellation,
    says_stopping,
    split_cancellation,
    unwrapped,
)
from gogoscope._core.context import Frame, current, slots_lent
from gogoscope._core.errors import first_of, lead_to
from gogoscope._core.slots import Slot, Slots
from gogoscope._core.stopping import Stopping
from gogoscope.events import OnError, ScopeCancelled, ScopeEnded, ScopeStarted, notify
from gogoscope.exceptions import ScopeClosedError, TaskCancelled
from gogoscope.scopes.outcome import Outcome
from gogoscope.scopes.services import Services
from gogoscope.scopes.task import Task
from gogoscope.scopes.unhandled import Unhandled, group_of, report, tell
from gogoscope.scopes.works import Works

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

T = TypeVar("T")

_FROM_OUTSIDE = "cancelled from outside its scope"


def verdict(
    *,
    interrupt: BaseException | None = None,
    body: BaseException | None = None,
    outside: BaseException | None = None,
    fatal: Exception | None = None,
    timed_out: Exception | None = None,
    unhandled: Exception | None = None,
) -> BaseException | None:
    """Return what leaves a block: the first of these that there is.

    :param interrupt: what is no result ended a task, a ``KeyboardInterrupt`` for example
    :param body: the exception of the body, or of closing what it entered
    :param outside: a cancellation from outside of the scope
    :param fatal: the error that cancelled the scope: of ``fail_fast``, or of a lost lease
    :param timed_out: the timeout of the scope
    :param unhandled: the errors of tasks that nobody handled
    """
    return first_of(interrupt, body, outside, fatal, timed_out, unhandled)


class Block:
    """What a scope is besides its methods: a block, and the work that ends with it.

    ``cancel_reason`` is what ``cancel`` was called with. ``stopping`` is an event that a graceful
    shutdown sets before it cancels, here and in the scopes inside.

    :param slots: bounds how many of its tasks run at a time, if anything does
    :param timeout: in seconds
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
    ) -> None:
        self._home = home
        self._slots = slots
        self._timeout = timeout
        self._fail_fast = fail_fast
        self._cancel_on_exit = cancel_on_exit
        self._on_error = on_error
        self.stopping = stopping
        self.cancel_reason: str | None = None
        self._unhandled = Unhandled()
        self._works = Works()
        self._inside: set[Frame] = set()
        self._outer: Frame | None = None
        self._began = math.nan
        self._cancelling = False
        self._why: str | None = None
        self._fatal: Exception | None = None
        self._timed_out = self._used = self._ended = False
        self._group: TaskGroup | None = None
        self._cancel_scope: anyio.CancelScope | None = None
        self._resources: AsyncExitStack | None = None
        self._body = 0
        self._body_cancelled = False
        self._unshielded: BaseException | None = None

    _slot: Slot | None = None
    _bounded_by: Slots | None = None

    def __repr__(self) -> str:
        return f"<Scope {self.name!r}>"

    @property
    def name(self) -> str:
        """The name given, else the module and qualified name of the function that made it."""
        return self._home.name

    def _check_open(self) -> TaskGroup:
        """Return the task group of the open block.

        :raises ScopeClosedError: outside the block
        """
        if self._group is None:
            raise ScopeClosedError(f"the block of {self!r} is not open; nothing can start in it")
        return self._group

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the block and its tasks; the block then ends without an exception."""
        check_reason(reason)
        if self._group is not None and not self._cancelling:
            self.cancel_reason = reason
            self._cancel(reason)

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Enter a context manager that is left, in reverse order, after the last task.

        Where the body itself was cancelled (``s.cancel()`` while it ran, a timeout), so is what
        its exit awaits, as everywhere in a cancelled block: shield what must not be cut short.

        :param resource: an async context manager
        :returns: what entering it returns
        :raises ScopeClosedError: outside the block
        :raises TypeError: if it is no async context manager
        :raises RuntimeError: from anywhere but the body of the block
        """
        self._check_open()
        check_resource(resource)
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
        home = self._home
        await home.open()
        deadline = math.inf if self._timeout is None else anyio.current_time() + self._timeout
        self._cancel_scope = anyio.CancelScope(deadline=deadline)
        self._cancel_scope.__enter__()
        group = anyio.create_task_group()
        self._group = await group.__aenter__()
        home.start(self._group)
        self._began = time.monotonic()
        self._body = anyio.get_current_task().id
        self._outer = current.get()
        if self._outer is not None:
            self._outer._inside.add(self)
        current.set(self)
        if home.observed:
            home.emit(ScopeStarted(home.name))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        self._body = 0
        self._note_timeout()
        # The body unwrapped a task that was cancelled as it is itself, or entered a leader's block.
        merely_cancelled = isinstance(exc, TaskCancelled) and self._cancelling
        body = None if merely_cancelled or self.stopping.explains(exc) else exc
        if body is not None:
            cancelled = split_cancellation(body)[1] is None
            why = f"the block of its scope ended with {type(body).__name__}"
            self._cancel(_FROM_OUTSIDE if cancelled else why)
        elif self._cancel_on_exit:
            self._cancel("the block of its scope ended")
        leaving = await self._end(body)
        home = self._home
        if home.observed:
            home.emit(ScopeEnded(home.name, leaving, time.monotonic() - self._began))
        if leaving is None or leaving is exc:
            return leaving is None
        raise leaving from leaving.__cause__

    async def _end(self, body: BaseException | None) -> BaseException | None:
        """End everything that belongs to the block; return the exception that leaves it."""
        assert self._cancel_scope is not None
        leaving = first_of(body, await self._wait_for_works())
        self._note_timeout()
        if self._resources is not None:
            leaving = await self._close_resources(self._resources, leaving)
            leaving = first_of(leaving, await self._wait_for_works())  # which the closing began
        leaving = first_of(leaving, await self._shielded(self._home.settle))
        leaving, interrupt = await self._leave_group(leaving)
        current.set(self._outer)
        if self._outer is not None:
            self._outer._inside.discard(self)
        # anyio may take a cancellation that knows no shield for one of its own, and swallow it
        leaving = first_of(left_by(self._cancel_scope, leaving), self._unshielded)
        if interrupt is not None and leaving is not None and cancelled_natively():
            interrupt = None  # asyncio let it out of its event loop already, and cancels all tasks
        if interrupt is None and leaving is None:
            leaving = await pending_cancellation()
        leaving = first_of(leaving, await self._shielded(self._home.close))
        return self._decide(leaving, interrupt)

    def _decide(
        self, leaving: BaseException | None, interrupt: BaseException | None
    ) -> BaseException | None:
        """Return what leaves the block, and report the errors that do not."""
        self._ended = True
        cancelled = leaving is not None and split_cancellation(leaving)[1] is None
        timed_out: TimeoutError | None = None
        if self._timed_out:
            limit = f"its timeout of {self._timeout:g} s"
            timed_out = TimeoutError(f"scope {self.name!r} took longer than {limit}")
        errors, further = self._unhandled.take()
        unhandled = group_of(errors, further, self.name)
        chosen = verdict(
            interrupt=interrupt,
            body=None if cancelled else leaving,
            outside=leaving if cancelled else None,
            fatal=self._fatal,
            timed_out=timed_out,
            unhandled=unhandled,
        )
        if interrupt is not None:
            lead_to(interrupt, leaving)
        if chosen is not None and chosen is not unhandled:
            if self._fatal is not None and chosen is not self._fatal:
                errors.insert(0, self._fatal)
            report(self._home, chosen, errors, further)
        return chosen

    async def _wait_for_works(self) -> BaseException | None:
        """Wait until nothing runs; return a cancellation that came in the meantime."""
        try:
            async with slots_lent():
                return await self._wait_until_idle()
        except anyio.get_cancelled_exc_class() as without_slot:
            return without_slot

    async def _wait_until_idle(self) -> BaseException | None:
        cancelled: BaseException | None = None
        while not self._works.close_offers():
            idle = self._works.idle()
            if self._cancelling:
                await self._shielded(self._works.end_what_never_began)
                cancelled = first_of(cancelled, await self._shielded(idle.wait))
                continue
            try:
                await idle.wait()
            except anyio.get_cancelled_exc_class() as raised:
                self._note_timeout()
                self._cancel(_FROM_OUTSIDE)
                cancelled = raised
        return cancelled

    async def _close_resources(
        self, resources: AsyncExitStack, leaving: BaseException | None
    ) -> BaseException | None:
        """Leave the entered resources with an exception; return the one that comes out of them."""
        assert self._cancel_scope is not None
        try:
            if leaving is None:
                await resources.aclose()
            elif await resources.__aexit__(type(leaving), leaving, leaving.__traceback__):
                leaving = None
        except BaseException as raised:  # noqa: BLE001 - it is returned
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
        """Leave the task group; return what goes on, and an interrupt that ended a task."""
        group, self._group = self._check_open(), None
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
        """Take a step, again if asyncio's own cancellation cut it; return that cancellation."""
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

    def _cancel(self, why: str | None, *, body: bool = True) -> None:
        assert self._cancel_scope is not None
        if not self._cancelling:
            self._cancelling = True
            self._why = why
            if self._body and body:
                self._body_cancelled = True
                self._cancel_scope.cancel(why)
            else:  # the body that stops its scope, or closes resources, goes on
                self._works.stop()
            home = self._home
            if home.observed:
                home.emit(ScopeCancelled(home.name, why))

    def _why_cancelled(self) -> str | None:
        """Return the reason for the result of a task that this scope cancelled."""
        self._note_timeout()
        return self._why if self._cancelling else _FROM_OUTSIDE

    def _start(self, task: Task[T], group: TaskGroup) -> Task[T]:
        """Start a task at the next checkpoint, or end it at once if the scope is cancelled."""
        if self._cancelling:
            task._end_cancelled(self._why)
        else:
            self._works.add(task)
            try:
                task._start(group)
            except BaseException:
                self._works.ended(task)
                raise
        return task

    def _note_settled(
        self, outcome: Outcome[Any], error: Exception | None, *, awaited: bool
    ) -> None:
        """Note that a task has its result."""
        try:
            if error is not None and self._fail_fast and not self._cancelling:
                self._fail(error, f"task {outcome.name!r} of its scope failed")
            elif error is not None and not awaited:
                self._note_unhandled(outcome, error)
        finally:  # an observer may exit
            self._works.ended(outcome)

    def _note_unhandled(self, outcome: Outcome[Any], error: Exception) -> None:
        """Note that nobody takes the error of a task that has ended."""
        if says_stopping(error):
            return
        on_error = outcome._on_error or self._on_error
        if on_error is not None and notify(on_error, error):
            return
        if self._ended:
            tell(self._home, error)
        else:
            self._unhandled.add(outcome, error)

    def _note_retrieved(self, outcome: Outcome[Any]) -> None:
        self._unhandled.retrieved(outcome)
