"""The block of a lock: a scope that ends with the lease.

From outside in: the lock is held, a task renews it, the scope runs. So the scope's last task has
ended before the renewals stop, and only then the lock is released. When the lease is lost, the
renewing task cancels the scope, which then raises the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from gogoscope._core.background import Home
from gogoscope._core.errors import first_of
from gogoscope.events import LeaseLost
from gogoscope.exceptions import LeaseLostError
from gogoscope.locks.acquire import acquire, check_patience, locks_of, timeout_error
from gogoscope.locks.reentry import held, refuse_reentry
from gogoscope.persistence.lease import Renewal, release
from gogoscope.persistence.lock_handle import LockHandle
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

    def _raised_by_body(self, loss: LeaseLostError) -> None:
        """Note that the body raises the loss of the lease itself, so that it is raised once."""
        ...

    def _lease_lost(self, loss: LeaseLostError) -> None:
        """Cancel it, and raise the loss from it."""
        ...


B = TypeVar("B", bound=Held)


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
    # _mark (refuses that the same task takes the lock again), _held_before (the marks outside).

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

    async def __aenter__(self) -> B:
        self._home.check_open()
        mark = refuse_reentry(locks_of(self._home), self.key)
        answer = await self._take()
        self._handle = answer
        self._locked = self._open_block(answer)
        self._renewal = Renewal(answer)
        self._group: TaskGroup = anyio.create_task_group()
        try:
            await self._group.__aenter__()
            self._group.create_task(self._renew(), name=f"gogoscope lease of {self.key}")
            await self._locked.__aenter__()
        except BaseException:
            await release(answer)
            raise
        self._mark, self._held_before = mark, held.get()
        held.set((*self._held_before, mark))
        return self._locked

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        self._mark.open = False
        held.set(self._held_before)
        handle = self._handle
        outgoing = exc
        if isinstance(exc, LeaseLostError) and exc.key == self.key:
            self._locked._raised_by_body(exc)
        try:
            if await self._locked.__aexit__(exc_type, exc, traceback):
                outgoing = None
        except BaseException as raised:  # noqa: BLE001 - raised again when the lock is free
            outgoing = raised
        lost = handle.lost
        self._renewal.stop()
        try:
            await release(handle)
        except anyio.get_cancelled_exc_class() as cancelled:
            outgoing = first_of(outgoing, cancelled)
        try:
            await self._group.__aexit__(None, None, None)
        except anyio.get_cancelled_exc_class() as cancelled:
            outgoing = first_of(outgoing, cancelled)
        if outgoing is None and lost is not None:
            outgoing = LeaseLostError(self.key, lost)
        if outgoing is None or outgoing is exc:
            return outgoing is None
        raise outgoing from outgoing.__cause__

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
        lost = await self._renewal.run()
        if lost is not None:
            self._home.emit(LeaseLost(self._home.name, self.key, lost.reason))
            self._locked._lease_lost(lost)
