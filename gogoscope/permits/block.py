"""The block of a permit: it waits for one, and refuses the task that would wait for itself."""

from __future__ import annotations

from collections.abc import Callable

from gogoscope._core.background import Home
from gogoscope._core.hints import explains
from gogoscope.exceptions import LockError
from gogoscope.locks.block import WHILE_HELD, MarkedBlock
from gogoscope.locks.lease_block import B
from gogoscope.locks.reentry import Mark, held_by_task, mark_of
from gogoscope.permits.acquire import acquire, permits_of
from gogoscope.permits.wish import Wish
from gogoscope.persistence.lock_handle import LockHandle


@explains(
    attributes=dict.fromkeys(
        WHILE_HELD, "enter it first: async with s.semaphore(key, limit) as permit"
    )
)
class PermitBlock(MarkedBlock[B]):
    """Takes a permit, keeps it while its block runs, and releases it.

    Made by ``s.semaphore``, ``s.read_lock`` and ``s.write_lock``.

    :param home: the scope that the block stands in
    :param open_block: returns what runs in the block of a permit that is held
    :param wish: what is wanted
    """

    def __init__(self, home: Home, open_block: Callable[[Wish, LockHandle], B], wish: Wish) -> None:
        super().__init__(home, lambda handle: open_block(wish, handle), wish.key)
        self._wish = wish

    def _refuse_reentry(self) -> Mark:
        wish = self._wish
        mark = mark_of(permits_of(self._home), wish.kind, wish.key)
        held = held_by_task(mark)
        if wish.kind == "read_write_lock" and held:
            raise LockError(
                f"this task holds the read or write lock {wish.key!r} already; waiting for it once "
                "more might never end, since a writer may wait in between"
            )
        if wish.limit is not None and held >= wish.limit:
            raise LockError(
                f"this task holds {held} permits of the semaphore {wish.key!r} already, as many as "
                "its limit; waiting for one more would never end"
            )
        return mark

    async def _take(self) -> LockHandle:
        return await acquire(self._home, self._wish)
