"""Leading a fleet: one process at a time has the term, and another takes over when it is lost.

A term is the block of a lock. What differs: entering goes on through failures of the store, and
losing the lease is no error, but the end of the term. A scope that is stopping leads no more: its
campaigns end with ``TaskCancelled``, and its terms as if they were lost, but after the periodic
calls that are in progress in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Protocol, TypeVar

import anyio

from gogoscope._core.background import Home
from gogoscope._core.errors import is_a, raise_again
from gogoscope._core.hints import explains
from gogoscope._core.jitter import jittered
from gogoscope._core.stopping import REASON, Stopping, refusal
from gogoscope.events import log_warning
from gogoscope.exceptions import LeaseLostError, PersistenceError
from gogoscope.locks.block import WHILE_HELD, LockBlock
from gogoscope.locks.lease_block import Held
from gogoscope.locks.polling import LONGEST_POLL_SECONDS
from gogoscope.persistence.lock_handle import LockHandle, release


class Term(Held, Protocol):
    """What runs while this process leads: a scope."""

    @property
    def stopping(self) -> Stopping:
        """What counts the periodic calls in progress."""
        ...

    def _cancel(self, why: str) -> None:
        """Cancel its block and its tasks."""
        ...


TermT = TypeVar("TermT", bound=Term)


@explains(attributes=dict.fromkeys(WHILE_HELD, "enter it first: async with s.leader(key) as term"))
class Campaign(LockBlock[TermT]):
    """Waits until this process leads, which it does while the block runs; made by ``s.leader``.

    After the block, ``lost`` tells why the term ended early; ``None`` if the block ended by itself.

    :param home: the scope that the block stands in
    :param open_term: returns what runs in the block of a term
    :param key: what is led
    :param ttl: the lease in seconds
    :param metadata: what to tell people about the leader, besides host, pid and scope
    :param stopping: is set when the scope is to lead no more
    """

    def __init__(
        self,
        home: Home,
        open_term: Callable[[LockHandle], TermT],
        key: str,
        ttl: float | timedelta,
        metadata: Mapping[str, str] | None,
        stopping: Stopping,
    ) -> None:
        super().__init__(home, open_term, key, ttl, None, metadata)
        self.lost: str | None = None
        self._stopping = stopping

    async def _enter(self) -> TermT:
        self.lost = None
        term = await super()._enter()
        term.stopping.listen(self._resign_if_stopping)
        self._resign_if_stopping()
        return term

    async def _take(self) -> LockHandle:
        """Wait for the lock, through failures of the store, as long as the scope may lead.

        :raises TaskCancelled: when the scope is stopping
        """
        handle: LockHandle | None = None
        with anyio.CancelScope() as campaigning, self._stopping.telling(campaigning.cancel):
            if not self._stopping.is_set():
                handle = await self._campaign()
        if self._stopping.is_set():
            if handle is not None:
                await release(handle)
            raise refusal()
        assert handle is not None
        return handle

    async def _campaign(self) -> LockHandle:
        failed = False
        while True:
            try:
                return await super()._take()
            except PersistenceError as error:
                if not error.retryable:
                    raise
                if not failed:
                    log_warning(
                        "the campaign for %r goes on when the store works again",
                        self.key,
                        error=error,
                    )
                failed = True
            await anyio.sleep(jittered(LONGEST_POLL_SECONDS))

    def _resign_if_stopping(self) -> None:
        """End the term if the scope is stopping and no periodic call of the term is in progress."""
        term = self._locked
        if self._stopping.is_set() and term.stopping.over and self.lost is None:
            self.lost = REASON
            term._cancel(REASON)

    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        outgoing: BaseException | None = exc
        try:
            if await super()._leave(exc_type, exc, traceback):
                return True
        except Exception as raised:  # noqa: BLE001 - raised again, without the loss of the term
            outgoing = raised
        finally:
            self._locked.stopping.leave(self._resign_if_stopping)
        rest = self._without_loss(outgoing)
        if rest is not None and rest is not exc:
            raise_again(rest)
        return rest is None

    def _without_loss(self, error: BaseException | None) -> BaseException | None:
        """Return an error, or the rest of a group, without the loss of the term."""
        if is_a(error, ExceptionGroup):
            return error.split(lambda part: self._is_loss(part))[1]  # noqa: PLW0108 - no method will do
        return None if error is None or self._is_loss(error) else error

    def _is_loss(self, error: BaseException) -> bool:
        if not is_a(error, LeaseLostError) or error.key != self.key:
            return False
        self.lost = error.reason
        return True
