"""Blocks for threads: what is held in the loop while the code of a thread runs.

A task in the loop enters the async block and waits in it until the thread leaves its own. So what
renews a lease, what is counted and what is settled are those of the async form. An error of the
thread's block is raised inside the async one, which keeps it or heeds it, as it would its own.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import anyio

from gogoscope._core.errors import Origin, is_a
from gogoscope._core.hints import open_already
from gogoscope.blocking.calls import ENTERED, Call, call_here
from gogoscope.blocking.hosts import Hosts, ask_of_held
from gogoscope.blocking.marks import Mark, marked, refuse_run_in_itself
from gogoscope.blocking.refusals import refuse_event_loop
from gogoscope.exceptions import LeaseLostError, LockError
from gogoscope.permits.wish import Wish
from gogoscope.rate_limits.permit import Permit
from gogoscope.scopes.scope import HeldScope, RunScope, Scope

I = TypeVar("I")  # noqa: E741 - what is inside

Open: TypeAlias = Callable[[Scope], AbstractAsyncContextManager[I]]


class Hold(Generic[I]):
    """A task in the loop that is inside an async block for as long as a thread needs it.

    :param hosts: the client
    :param open_block: returns the async block, of the scope that works for the client
    :param name: what the task is called
    """

    def __init__(self, hosts: Hosts, open_block: Open[I], name: str) -> None:
        self._open_block = open_block
        self._process = os.getpid()
        self._leaving: anyio.Event | None = None
        self._error: BaseException | None = None
        self._call: Call[None] = hosts.call(self._work, name=name)
        self.scope: Scope
        self.inner: I

    def enter(self) -> I:
        """Wait until the block is entered, and return what is inside.

        :raises Exception: why it cannot be entered
        """
        self._call.begin()
        if self._call.wait():
            self._call.result()
        return self.inner

    def is_here(self) -> bool:
        """Return whether this process entered it, not the one that it was forked from."""
        return self._process == os.getpid()

    def leave(self, error: BaseException | None) -> None:
        """Leave the block, and wait until that is done.

        :param error: what leaves the block of the thread, which goes on
        :raises Exception: what the end of the block raises, if there is no error
        """
        if error is not None and not is_a(error, Exception):
            self.abandon()
            return
        self._error = error
        self._call.call_soon(self._leave)
        self._call.wait()
        if error is None:
            self._call.result()

    def is_over(self) -> bool:
        """Return whether it has ended, whatever ended it."""
        return self._call.ended

    def abandon(self) -> None:
        """Cancel the block, and wait for its end."""
        self._call.abandon()

    def drop(self) -> None:
        """Cancel the block without waiting: nobody says how it ended."""
        if self.is_here():
            self._call.cancel()

    def _leave(self) -> None:
        if self._leaving is not None:
            self._leaving.set()

    async def _work(self, scope: Scope) -> None:
        self.scope = scope
        async with self._open_block(scope) as self.inner:
            self._leaving = anyio.Event()
            call_here().tell(ENTERED)
            await self._leaving.wait()
            if self._error is not None:
                raise self._error


class Block(Generic[I]):
    """A block of a thread, for ``with``.

    :param hosts: the client
    :param open_block: returns the async block
    :param key: what is held
    """

    # Set while entered: _hold, _mark.
    # _entering: what stands for the thread that is about to enter it, by process: one that is
    #   forked meanwhile has no such thread.

    _what = "block"
    _instead = "async with"

    def __init__(self, hosts: Hosts, open_block: Open[I], key: str) -> None:
        self._hosts = hosts
        self._open_block = open_block
        self.key = key
        """What is held."""
        self._hold: Hold[I] | None = None
        self._mark: Mark | None = None
        self._entering: dict[int, object] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} key={self.key!r}>"

    def _refuse_itself(self, mark: Mark) -> None:
        """Refuse to wait for what the same thread holds; nothing to refuse here."""

    def _enter(self) -> I:
        refuse_event_loop(f"the blocking {self._what} {self.key!r}", self._instead)
        process, caller = os.getpid(), object()
        try:
            # In one step, since another thread may be doing the same.
            first = self._entering.setdefault(process, caller) is caller
            if not first or (self._hold is not None and self._hold.is_here()):
                raise open_already(self)
            return self._enter_alone()
        finally:
            if self._entering.get(process) is caller:
                del self._entering[process]

    def _enter_alone(self) -> I:
        mark = marked(self._hosts, self._what, self.key)
        self._refuse_itself(mark)
        hold = Hold(self._hosts, self._open_block, self._usage)
        try:
            inner = hold.enter()
            mark.over = hold.is_over
            self._hold, self._mark = hold, mark
            mark.add()
        except BaseException:
            hold.abandon()
            raise
        return inner

    def _exit(self, error: BaseException | None) -> None:
        hold, mark = self._hold, self._mark
        self._hold = self._mark = None
        try:
            if hold is None or not hold.is_here():
                return  # what the parent of this process holds is the parent's
            if mark is not None:
                mark.remove()
            origin = None if error is None else Origin(error)
            try:
                hold.leave(error)
            finally:
                if origin is not None and error is not None:
                    origin.restore(error)  # without the frames of the loop
        except BaseException:
            if hold is not None and hold.is_here():
                hold.abandon()  # it may have been interrupted before it could leave
            if mark is not None:
                mark.remove()
            raise

    def _inner(self) -> I:
        """Return what is inside; raises what :meth:`_held` does."""
        return self._held().inner

    def _held(self) -> Hold[I]:
        """Return what holds it.

        :raises LeaseLostError: in a process that was forked inside the block
        :raises RuntimeError: outside of the block
        """
        hold = self._hold
        if hold is None:
            raise RuntimeError(f"enter it first: with db.{self._usage} as ...")
        if not hold.is_here():
            raise LeaseLostError(self.key, "the process that this one was forked from holds it")
        return hold

    @property
    def _usage(self) -> str:
        return f"{self._what}({self.key!r})"

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit(exc)

    def __del__(self) -> None:
        hold, mark = getattr(self, "_hold", None), getattr(self, "_mark", None)
        if hold is not None:
            hold.drop()
        if mark is not None:
            mark.remove()


class Acquiring(Block[Permit]):
    """Waits for a permit of a rate limit, for ``with``; made by ``db.acquire``."""

    _what = "acquire"
    _instead = "async with limit.acquire()"

    def __enter__(self) -> Permit:
        return self._enter()


class LeasedBlock(Block[HeldScope]):
    """A block whose lease a loop in another thread renews.

    If the lease is lost, :meth:`ensure` raises, and so does the end of the block. The code in the
    block is not interrupted, so call it before each outside write.
    """

    def __enter__(self) -> Self:
        self._enter()
        return self

    def acquire(self) -> Self:
        """Enter the block without ``with``; leave it with :meth:`release`.

        Keep what this returns: it is released if nobody refers to it any more.

        :raises LockTimeoutError: if it was not free in time
        :raises LockError: if this thread holds it already
        """
        return self.__enter__()

    def release(self) -> None:
        """Leave the block; does nothing if it was left already. Any thread may call it.

        :raises LeaseLostError: if the lease was lost meanwhile
        """
        self._exit(None)

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier holder."""
        return self._inner().fencing_token

    @property
    def expires_at(self) -> float:
        """When the lease ends unless renewed, in seconds since the Unix epoch."""
        return self._inner().expires_at

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if it is not held any more
        """
        self._inner().ensure()

    def is_valid(self) -> bool:
        """Ask the store whether this block still holds it.

        :raises PersistenceError: if the store fails
        """
        return self._ask(lambda inner: inner.is_valid(), "is_valid()")

    def extend(self, ttl: float | timedelta) -> bool:
        """Let the lease end ``ttl`` seconds from now, and renew it for as long from then on.

        :returns: ``False`` if it is lost
        :raises PersistenceError: if the store fails
        """
        return self._ask(lambda inner: inner.extend(ttl), "extend(ttl)")

    def _ask(self, work: Callable[[HeldScope], Awaitable[bool]], usage: str) -> bool:
        hold = self._held()
        asked = partial(work, hold.inner)
        return ask_of_held(self._hosts, hold.scope, asked, f"{self._usage}.{usage}")


class Lock(LeasedBlock):
    """A lock, for ``with``, or with ``acquire()`` and ``release()``; made by ``db.lock``."""

    _what = "lock"
    _instead = "async with s.lock(key)"

    def _refuse_itself(self, mark: Mark) -> None:
        if mark.times_held():
            raise LockError(
                f"this thread holds the lock {self.key!r} already; waiting for it would never end"
            )


class SharedLock(LeasedBlock):
    """A permit of a semaphore, or a read or write lock; made by the method of that name.

    :param wish: what is wanted
    """

    def __init__(self, hosts: Hosts, open_block: Open[HeldScope], wish: Wish) -> None:
        super().__init__(hosts, open_block, wish.key)
        self._wish = wish
        self._what = wish.kind
        self._instead = f"async with s.{wish.what}(key)"

    def _refuse_itself(self, mark: Mark) -> None:
        if mark.times_held() >= (self._wish.limit or 1):
            raise LockError(
                f"this thread holds {self._wish} already; waiting for it would never end"
            )

    @property
    def _usage(self) -> str:
        return f"{self._wish.what}({self.key!r})"


class Run(Block[RunScope]):
    """A run, for ``with``: its effect happens once for a key; made by ``db.claim``.

    ::

        with db.claim(f"charge:{order.id}", keep=86_400) as run:
            if not run.done:
                run.complete(charge(order))
        return run.result
    """

    _what = "claim"
    _instead = "async with s.claim(key, keep=...)"

    # Set on entering: _run, which stays, so that the result can be read after the block.

    _run: RunScope | None = None

    def __enter__(self) -> Self:
        self._run = self._enter()
        return self

    def _refuse_itself(self, mark: Mark) -> None:
        refuse_run_in_itself(mark)

    def _entered(self) -> RunScope:
        return self._inner() if self._run is None or self._hold is not None else self._run

    @property
    def done(self) -> bool:
        """Whether the run was done before; then ``result`` is what it returned."""
        return self._entered().done

    @property
    def result(self) -> Any:
        """The value that the run returned, or that it has been completed with so far."""
        return self._entered().result

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier run of this key."""
        return self._entered().fencing_token

    def complete(self, value: Any) -> None:
        """Say what the run is to return; it is kept when the block has ended without an error.

        :raises RunError: if the run was done before
        """
        self._inner().complete(value)

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if somebody else may run by now
        :raises RunError: if the run was done before
        """
        self._inner().ensure()
