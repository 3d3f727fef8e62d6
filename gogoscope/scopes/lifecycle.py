"""How the block of a scope begins, what ends with it, and what leaves it.

A block has a task group and, around it, a cancel scope. It ends in this order, whatever goes wrong
on the way:

1. The body has ended. If it raised, or the scope was cancelled, all work is stopped.
2. The block waits until no work is left. Maps that nobody takes from any more are closed.
3. The resources that the body entered are closed, in reverse order. Blocks of scopes may be among
   them, which end in their turn.
4. The services settle: the store is told everything, locks are released.
5. The task group, then the cancel scope, then the store are left.

What leaves the block is decided once, at the end, by :func:`gogoscope.scopes.leaving.verdict`.
Until then whatever the steps raise is noted, and the steps that are left are taken, shielded from
cancellation. asyncio's own cancellation knows no shield, but comes once: a step that it cut is
taken again.
"""

from __future__ import annotations

import functools
import math
import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self, TypeVar

import anyio

from gogoscope._core.arguments import check_resource
from gogoscope._core.cancellation import (
    cancelled_by_scope,
    cancelled_natively,
    checkpoint,
    is_cancellation,
    left_by,
    pending_exception,
    says_cancelled,
    without_echo,
)
from gogoscope._core.context import current, slots_lent
from gogoscope._core.errors import first_of, is_a, lead_to, raise_again
from gogoscope._core.event_loop import running
from gogoscope._core.launches import end_what_never_began
from gogoscope._core.resources import Resources
from gogoscope.events import ScopeEnded, ScopeStarted
from gogoscope.exceptions import ScopeClosedError
from gogoscope.scopes.block import FROM_OUTSIDE, Block
from gogoscope.scopes.leaving import Leaving, verdict
from gogoscope.scopes.runner import Runner

T = TypeVar("T")


class Lifecycle(Block):
    """The beginning and the end of a block."""

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Enter a context manager that is left, in reverse order, after the last task.

        Where the body itself was cancelled (``s.cancel()`` while it ran, a timeout), so is what
        its exit awaits, as everywhere in a cancelled block: shield what must not be cut short.
        The block of a scope (``s.child()``, ``s.lock(key)``) ends in its turn, after its own tasks.

        :param resource: an async context manager
        :returns: what entering it returns
        :raises ScopeClosedError: outside the block
        :raises TypeError: if it is no async context manager
        :raises RuntimeError: from anywhere but the body of the block
        """
        self._check_open()
        check_resource(resource)
        if not self._is_in_body() or current.get() is not self._innermost:
            raise RuntimeError(
                "s.enter works only in the body of the scope's own block; in a task, write "
                "'async with' or open a scope of its own"
            )
        if self._resources is None:
            self._resources = Resources()
        entered = await self._resources.enter(resource)
        self._innermost = current.get()
        return entered

    async def __aenter__(self) -> Self:
        if self._used:
            raise ScopeClosedError(f"{self!r} was used before; a scope has one block")
        around = self._around
        if around is not None:
            around._check_open()
        self._used = True
        home = self._home
        await home.open()
        loop = running()
        deadline = math.inf if self._timeout is None else anyio.current_time() + self._timeout
        self._cancel_scope = anyio.CancelScope(deadline=deadline)
        self._cancel_scope.__enter__()
        group = loop.open_group(self._note_lost)
        self._group = await group.__aenter__()
        self._loop = loop
        self._runner = Runner(group, loop, inline=self._inline)
        home.start(group, loop, self._exit_with)
        self._began = time.monotonic()
        self._host = anyio.get_current_task().id
        self._in_body = True
        self._outer = outer = current.get()
        if outer is not None:
            outer._inside.add(self)
            self._depth = outer._depth
        current.set(self)
        self._innermost = self
        if around is not None:
            around._works.running.add(self)
            around._blocks.add(self)
            self._apart = not around._reaches(outer)
            if around._cancelling:
                self._stop()
        if home.observed:
            home.emit(ScopeStarted(home.name, id=home.id, parent=self._number_around()))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        self._check_leaving()
        self._in_body = False
        self._note_timeout()
        # The body unwrapped a task that was cancelled as it is itself, or entered a leader's block.
        raised = None if exc is None else without_echo(exc)
        echo = is_a(raised, Exception) and says_cancelled(raised)
        merely_cancelled = echo and (self._cancelling or cancelled_by_scope())
        body = None if merely_cancelled or self.stopping.explains(raised) else raised
        if body is not None:
            why = f"the block of its scope ended with {type(body).__name__}"
            self._cancel(FROM_OUTSIDE if is_cancellation(body) else why)
        elif self._cancel_on_exit:
            self._cancel("the block of its scope ended")
        leaving = await self._end(body)
        home = self._home
        if home.observed:
            seconds = time.monotonic() - self._began
            ended = ScopeEnded(
                home.name, leaving, seconds, id=home.id, parent=self._number_around()
            )
            home.emit(ended)
        home.end()
        if self._exit is not None:  # an observer of this very end
            lead_to(self._exit, leaving)
            leaving = self._exit
        if leaving is not None and leaving is not exc:
            raise_again(leaving)
        return leaving is None

    def _check_leaving(self) -> None:
        """Refuse to leave the block where that would tear the cancel scopes of tasks.

        :raises RuntimeError: saying what to do
        """
        self._check_open()
        if self._host != anyio.get_current_task().id:
            self.cancel("its block was left in another task")
            raise RuntimeError(
                f"the block of {self!r} is left in another task than it was entered in; open and "
                "close it in one task: in an 'async with' of its own, or in one fixture or exit "
                "stack that a single task runs"
            )
        if self._resources is None:  # else they may close those in its body
            self._check_nothing_inside(None)

    def _check_nothing_inside(self, leaving: BaseException | None) -> None:
        """Refuse to leave the block before one that was opened in its body.

        :param leaving: what has come of the end so far
        :raises RuntimeError: saying what to do
        """
        for block in self._blocks_in_body():
            refusal = RuntimeError(
                f"the block of {block!r}, inside {self!r}, is still open; leave blocks in "
                "the reverse order of entering them"
            )
            lead_to(refusal, leaving)
            raise refusal

    async def _end(self, body: BaseException | None) -> BaseException | None:
        """End everything that belongs to the block; return the exception that leaves it."""
        assert self._cancel_scope is not None
        leaving = Leaving(body, functools.partial(self._cancel, FROM_OUTSIDE))
        await self._wait_for_works(leaving)
        self._note_timeout()
        if self._resources is not None:
            await self._close_resources(self._resources, leaving)
            self._check_nothing_inside(leaving.exception)
            await self._wait_for_works(leaving)  # which the closing began
        await leaving.take(self._home.settle)
        await self._leave_group(leaving)
        if self._cancelling:
            # asyncio may have thrown into the step before. What leaves the block would then forget
            # what it was raised in: the interpreter makes what the body handles its context.
            await leaving.take(checkpoint)
        current.set(self._outer)
        self._innermost = None
        if self._outer is not None:
            self._outer._inside.discard(self)
        left = left_by(self._cancel_scope, leaving.exception)
        # anyio may take a cancellation that knows no shield for one of its own, and swallow it
        leaving.exception = first_of(left, leaving.unshielded)
        if leaving.interrupt is not None and leaving.exception is not None and cancelled_natively():
            leaving.interrupt = None  # asyncio let it out of its event loop, and cancels all tasks
        if leaving.interrupt is None and leaving.exception is None:
            leaving.note(await pending_exception())
        await leaving.take(self._home.close)
        if self._around is not None:
            self._around._blocks.discard(self)
            self._around._works.ended(self)
        return self._decide(leaving)

    def _decide(self, leaving: Leaving) -> BaseException | None:
        """Return what leaves the block, and report the errors that do not."""
        timed_out: TimeoutError | None = None
        if self._timed_out:
            limit = f"its timeout of {self._timeout:g} s"
            timed_out = TimeoutError(f"scope {self.name!r} took longer than {limit}")
        lost = self._unhandled.take(leaving.errors)
        unhandled = lost.group(self.name)
        fatal = self._fatal
        leaving.note(self._exit)
        self._exit = None
        chosen = verdict(
            interrupt=leaving.interrupt,
            body=None if leaving.cancelled else leaving.exception,
            outside=leaving.exception if leaving.cancelled else None,
            fatal=fatal,
            timed_out=timed_out,
            unhandled=unhandled,
        )
        if leaving.interrupt is not None:
            lead_to(leaving.interrupt, leaving.exception)
        if chosen is not None and chosen is not unhandled:
            lost.report(self._home, chosen, fatal)
        return chosen

    async def _wait_for_works(self, leaving: Leaving) -> None:
        """Wait until nothing runs, and lend the slots held around the block meanwhile."""
        try:
            async with slots_lent():
                await self._wait_until_idle(leaving)
        except BaseException as without_slot:  # noqa: BLE001 - it is noted
            leaving.note(without_slot)

    async def _wait_until_idle(self, leaving: Leaving) -> None:
        resources = self._blocks_in_body()
        with self._works.stopped_by(resources):
            await self._wait_for_all_but(resources, leaving)

    async def _wait_for_all_but(self, resources: list[Block], leaving: Leaving) -> None:
        while not self._works.close_offers(resources):
            idle = self._works.idle()
            if self._cancelling:
                self._runner.drop()
                await leaving.take(self._end_what_never_began)
                await leaving.take(idle.wait)
                continue
            try:
                await idle.wait()
            except BaseException as raised:  # noqa: BLE001 - it is noted
                self._note_timeout()
                self._cancel(FROM_OUTSIDE)
                leaving.note(raised)

    async def _end_what_never_began(self) -> None:
        unbegun = self._unbegun()
        if unbegun:
            await checkpoint()  # what can still begin does so
            end_what_never_began(unbegun)

    async def _close_resources(self, resources: Resources, leaving: Leaving) -> None:
        """Leave the entered resources with what leaves the block; note what comes out of them."""
        assert self._cancel_scope is not None
        left = leaving.exception
        raised = await resources.leave(left)
        if raised is not None:
            raised = without_echo(raised)
        if raised is None:
            leaving.exception = None
        elif raised is not left:
            cut_short = is_cancellation(raised)
            if cut_short and self._cancel_scope.cancel_called and not self._body_cancelled:
                self._timed_out = True
            if left is None or not cut_short:
                leaving.exception = raised
        self._note_timeout()

    async def _leave_group(self, leaving: Leaving) -> None:
        """Leave the task group; note what comes out of it: an interrupt that ended a task."""
        assert self._group is not None
        group, self._group = self._group, None
        # A mere cancellation may be the group's own, which only the group can tell.
        mere = leaving.exception if leaving.cancelled else None
        self._runner.close()
        try:
            swallowed = await group.__aexit__(None if mere is None else type(mere), mere, None)
        except BaseException as raised:  # noqa: BLE001 - judged by what it is
            if mere is not None:
                leaving.exception = None
            leaving.note(raised)
            leaving.exception = first_of(leaving.exception, mere)
        else:
            if mere is not None and swallowed:
                leaving.exception = None
        end_what_never_began(self._unbegun())
