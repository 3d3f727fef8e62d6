"""The block of a lock: a scope that ends with the lease."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from gogoscope.durations import seconds
from gogoscope.error_details import first_of
from gogoscope.events import LeaseLost
from gogoscope.exceptions import LeaseLostError
from gogoscope.lock_release import release
from gogoscope.locks import Keeper, held, refuse_reentry, timeout_error
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.validation import check_key, check_lease, check_metadata
from gogoscope.scope import Scope


class LockedScope(Scope):
    """The block of a lock: a scope whose tasks end when the lease is lost; made by ``s.lock``.

    Its tasks may count on the lock until they end: it is renewed, and released after the last.
    """

    def __init__(self, parent: Scope, handle: LockHandle) -> None:
        super().__init__(name=lambda: f"{parent.name} holding {handle.key}", parent=parent)
        self.handle = handle

    @property
    def key(self) -> str:
        """The lock."""
        return self.handle.key

    @property
    def owner(self) -> str:
        """The name that ``extend(key, ttl, owner)`` takes."""
        return self.handle.owner

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier holder of this lock."""
        return self.handle.fencing_token

    @property
    def expires_at(self) -> float:
        """When the lease ends unless renewed, in seconds since the Unix epoch."""
        return self.handle.expires_at

    def raised_by_body(self, loss: LeaseLostError) -> None:
        """Note that the body raises the loss of the lease itself, so that it is told only once."""
        self._fatal = loss

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if the lock is not held any more
        """
        self.handle.ensure()

    async def is_valid(self) -> bool:
        """Ask the store whether this block still holds the lock."""
        return await self.handle.is_valid()

    async def extend(self, ttl: float | timedelta) -> bool:
        """Let the lease end ``ttl`` seconds from now, and renew it for as long from then on."""
        return await self.handle.extend(ttl)


class LockBlock:
    """Takes a lock, keeps it while its block runs, and frees it; made by ``s.lock``."""

    def __init__(
        self,
        parent: Scope,
        key: str,
        ttl: float | timedelta,
        wait: float | timedelta | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self._parent = parent
        self.key = check_key(key)
        self._ttl = check_lease(ttl)
        self._wait = None if wait is None else seconds("wait", wait, zero=True, infinite=True)
        self._metadata = check_metadata({} if metadata is None else metadata)

    async def __aenter__(self) -> LockedScope:
        self._parent.check_open()
        nets = self._parent.nets
        mark = refuse_reentry(nets.locks, self.key)
        answer = await nets.claim(self.key, self._ttl, self._wait, self._metadata)
        if not isinstance(answer, LockHandle):
            raise timeout_error(self.key, self._wait, answer)
        self._locked = LockedScope(self._parent, answer)
        self._keeper = Keeper(answer)
        self._group: TaskGroup = anyio.create_task_group()
        try:
            await self._group.__aenter__()
            self._group.create_task(self._keep(), name=f"gogoscope lease of {self.key}")
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
        handle = self._locked.handle
        outgoing = exc
        if isinstance(exc, LeaseLostError) and exc.key == self.key:
            self._locked.raised_by_body(exc)
        try:
            if await self._locked.__aexit__(exc_type, exc, traceback):
                outgoing = None
        except BaseException as raised:  # noqa: BLE001 - raised again when the lock is free
            outgoing = raised
        lost = handle.lost
        self._keeper.stop()
        for _ in range(2):  # asyncio's own cancellation knows no shield, and comes once
            try:
                await release(handle)
            except anyio.get_cancelled_exc_class() as cancelled:
                outgoing = first_of(outgoing, cancelled)
            else:
                break
        try:
            await self._group.__aexit__(None, None, None)
        except anyio.get_cancelled_exc_class() as cancelled:
            outgoing = first_of(outgoing, cancelled)
        if outgoing is None and lost is not None:
            outgoing = LeaseLostError(self.key, lost)
        if outgoing is None or outgoing is exc:
            return outgoing is None
        raise outgoing from outgoing.__cause__

    async def _keep(self) -> None:
        lost = await self._keeper.run()
        if lost is not None:
            self._locked.emit(LeaseLost(self._parent.name, self.key, lost.reason))
            self._locked.fail(lost, f"the lease of its lock was lost: {lost.reason}")
