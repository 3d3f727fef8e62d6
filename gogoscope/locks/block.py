"""The block of a lock: a scope that ends with the lease.

From outside in: the lock is held, a task renews it, the scope runs. So the scope's last task has
ended before the renewals stop, and only then the lock is released. When the lease is lost, the
renewing task cancels the scope, which then raises the loss.

Each step of the end hands back what it raises, whatever that is, and the next one is taken all the
same. The renewing task raises nothing: what ends it is kept, and raised at the end of the block.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from gogoscope._core.background import Home
from gogoscope._core.cancellation import is_cancellation, unwrapped
from gogoscope._core.errors import cause_of, first_of, lead_to
from gogoscope._core.event_loop import EventLoop, running
from gogoscope._core.hints import explains
from gogoscope.events import LeaseLost, description
from gogoscope.exceptions import GogoscopeError, LeaseLostError
from gogoscope.locks.acquire import acquire, check_patience, locks_of, timeout_error
from gogoscope.locks.reentry import held, refuse_reentry
from gogoscope.persistence.lease import Renewal
from gogoscope.persistence.lock_handle import LockHandle, release
from gogoscope.persistence.validation import check_key, check_lease, check_metadata


class Held(Protocol):
    """What runs inside the block of a lock, and ends with the lease: a scope."""

    async def __aenter__(self) -> object:
        """Begin the block."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        """End it, and what runs in it."""
        ...

    def _check_leaving(self) -> None:
        """Refuse to end the block in another task than it was begun in.

        :raises RuntimeError: saying what to do
        """
        ...

    def _lease_lost(self, loss: LeaseLostError) -> None:
        """Cancel it, and raise the loss from it."""
        ...


B = TypeVar("B", bound=Held)


WHILE_HELD = ("ensure", "extend", "fencing_token", "is_valid", "release", "task")
"""What only the block of a lock has that is held."""


@explains(attributes=dict.fromkeys(WHILE_HELD, "enter it first: async with s.lock(key) as locked"))
class LockBlock(Generic[B]):
    """Takes a lock, keeps it while its block runs, and releases it; made by ``s.lock``.

    :param home: the scope that the block stands in
    :param open_block: returns what runs in the block of a lock that is held
    :param key: the lock
    :param ttl: the lease in seconds
    :param wait: seconds to wait for it; ``None`` waits for ever
    :param metadata: what to tell people about the holder, besides host, pid and scope
    """

    # Set on entering: _handle, _locked (what runs in the block), _renewal, _group (its task's),
    # _mark (refuses that the same task takes the lock again), _held_before (the marks outside),
    # _interrupt (what ended the renewals and ends the program).

    def __init__(
        self,
        home: Home,
        open_block: Callable[[LockHandle], B],
        key: str,
        ttl: float | timedelta,
        wait: float | timedelta | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self._home = home
        self._open_block = open_block
        self.key = check_key(key)
        self._lease = check_lease(ttl)
        self._patience = check_patience(wait)
        self._metadata = check_metadata({} if metadata is None else metadata)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} key={self.key!r}>"

    async def __aenter__(self) -> B:
        self._home.check_open()
        _protect(type(running()))
        mark = refuse_reentry(locks_of(self._home), self.key)
        answer = await self._take()
        self._handle = answer
        self._renewal = Renewal(answer)
        self._interrupt: BaseException | None = None
        self._group: TaskGroup = anyio.create_task_group()
        try:
            self._locked = self._open_block(answer)
            await self._group.__aenter__()
        except BaseException:
            await release(answer)
            raise
        try:
            self._group.create_task(self._renew(), name=f"gogoscope lease of {self.key}")
            await self._locked.__aenter__()
        except BaseException as raised:  # noqa: BLE001 - raised again when the lock is free
            leaving = await self._let_go(raised)
            assert leaving is not None
            raise leaving from cause_of(leaving)
        self._mark, self._held_before = mark, held.get()
        held.set((*self._held_before, mark))
        return self._locked

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        self._locked._check_leaving()
        self._mark.open = False
        held.set(self._held_before)
        leaving = exc
        try:
            if await self._locked.__aexit__(exc_type, exc, traceback):
                leaving = None
        except BaseException as raised:  # noqa: BLE001 - raised again when the lock is free
            leaving = raised
        lost = None if self._handle.lost is None else self._handle._lease_lost()
        leaving = first_of(await self._let_go(leaving), lost)
        if leaving is None or leaving is exc:
            return leaving is None
        raise leaving from cause_of(leaving)

    async def _let_go(self, leaving: BaseException | None) -> BaseException | None:
        """Stop the renewals, then release the lock; return what leaves the block."""
        self._renewal.stop()
        for step in (partial(self._group.__aexit__, None, None, None), self._release):
            leaving = _first_out(leaving, await _raised_by(step))
        return _first_out(leaving, self._interrupt)

    async def _release(self) -> None:
        """Release the lock; if it is lost, nothing waits for that."""
        handle = self._handle
        if handle.lost is None:
            await release(handle)
        elif not self._home.spawn(partial(_release_if_possible, handle)):
            handle._abandon()

    async def _take(self) -> LockHandle:
        """Wait for the lock, and return its handle.

        :raises LockTimeoutError: if it was not free in time
        """
        answer = await acquire(
            self._home, self.key, self._lease, self._patience, self._metadata, set()
        )
        if not isinstance(answer, LockHandle):
            raise timeout_error(self.key, self._patience, answer)
        return answer

    async def _renew(self) -> None:
        try:
            lost = await self._renewal.run()
            if lost is not None:
                self._locked._lease_lost(lost)
                self._home.emit(LeaseLost(self._home.name, self.key, lost.reason))
        except BaseException as raised:  # noqa: BLE001 - it ends the block, and is raised there
            if not is_cancellation(raised):
                self._interrupt = raised
            reason = f"its renewal ended with {description(raised)}"
            self._locked._lease_lost(LeaseLostError(self.key, reason))


@functools.cache
def _protect(kind: Callable[[], EventLoop]) -> None:
    """Let no Ctrl-C tear the beginning or the end of a block in the middle."""
    loop = kind()
    for function in (LockBlock.__aenter__, LockBlock.__aexit__, LockBlock._renew):
        loop.protect(function, protected=True)


async def _release_if_possible(handle: LockHandle) -> None:
    """Release a lock whose lease is over here; in the store it may be longer."""
    with suppress(GogoscopeError):
        await handle.release()


async def _raised_by(step: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Take a step of the end; return what it raises."""
    try:
        await step()
    except BaseException as raised:  # noqa: BLE001 - it is returned
        return unwrapped(raised)
    return None


def _first_out(
    leaving: BaseException | None, further: BaseException | None
) -> BaseException | None:
    """Return what leaves the block if a step of its end raises something further.

    It is what came first, unless the other one ends the program.
    """
    if leaving is None or further is None:
        return further if leaving is None else leaving
    if isinstance(further, Exception) or is_cancellation(further):
        return leaving
    lead_to(further, leaving)
    return further
