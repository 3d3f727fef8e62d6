"""The block of a lock: it waits for the lock, and refuses the task that holds it already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType

from gogoscope._core.background import Home
from gogoscope._core.hints import explains
from gogoscope.locks.acquire import acquire, check_patience, locks_of, timeout_error
from gogoscope.locks.lease_block import B, LeaseBlock
from gogoscope.locks.reentry import Mark, held, refuse_reentry
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.validation import check_key, check_lease, check_metadata

WHILE_HELD = ("ensure", "extend", "fencing_token", "is_valid", "release", "task")
"""What only the block of a lock has that is held."""


class MarkedBlock(LeaseBlock[B]):
    """A block that its task may not enter again where it would wait for itself."""

    # Set on entering: _mark (refuses that the same task takes it again), _held_before (the marks
    # outside).

    def _refuse_reentry(self) -> Mark:
        """Return the mark for the block.

        :raises LockError: if the task would wait for itself
        """
        raise NotImplementedError

    async def _enter(self) -> B:
        mark = self._refuse_reentry()
        locked = await super()._enter()
        self._mark, self._held_before = mark, held.get()
        held.set((*self._held_before, mark))
        return locked

    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._mark.open = False
        held.set(self._held_before)
        return await super()._leave(exc_type, exc, traceback)


@explains(attributes=dict.fromkeys(WHILE_HELD, "enter it first: async with s.lock(key) as locked"))
class LockBlock(MarkedBlock[B]):
    """Takes a lock, keeps it while its block runs, and releases it; made by ``s.lock``.

    :param home: the scope that the block stands in
    :param open_block: returns what runs in the block of a lock that is held
    :param key: the lock
    :param ttl: the lease in seconds
    :param wait: seconds to wait for it; ``None`` waits for ever
    :param metadata: what to tell people about the holder, besides host, pid and scope
    """

    def __init__(
        self,
        home: Home,
        open_block: Callable[[LockHandle], B],
        key: str,
        ttl: float | timedelta,
        wait: float | timedelta | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        super().__init__(home, open_block, check_key(key))
        self._lease = check_lease(ttl)
        self._patience = check_patience(wait)
        self._metadata = check_metadata({} if metadata is None else metadata)

    def _refuse_reentry(self) -> Mark:
        return refuse_reentry(locks_of(self._home), self.key)

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
