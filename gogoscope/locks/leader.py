"""Leading a fleet: one process at a time has the term, and another takes over when it is lost.

A term is the block of a lock. What differs: entering goes on through failures of the store, and
losing the lease is no error, but the end of the term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType

import anyio

from gogoscope._core.background import Home
from gogoscope._core.jitter import jittered
from gogoscope.events import log_warning
from gogoscope.exceptions import LeaseLostError, PersistenceError
from gogoscope.locks.block import B, LockBlock
from gogoscope.locks.polling import LONGEST_POLL_SECONDS
from gogoscope.persistence.lock_handle import LockHandle


class Campaign(LockBlock[B]):
    """Waits until this process leads, which it does while the block runs; made by ``s.leader``.

    ``lost`` tells, after the block, why the term was lost; ``None`` if the block ended by itself.

    :param home: the scope that the block stands in
    :param open_block: returns what runs in the block of a term
    :param key: what is led
    :param ttl: the lease in seconds
    :param metadata: what to tell people about the leader, besides host, pid and scope
    """

    def __init__(
        self,
        home: Home,
        open_block: Callable[[LockHandle], B],
        key: str,
        ttl: float | timedelta,
        metadata: Mapping[str, str] | None,
    ) -> None:
        super().__init__(home, open_block, key, ttl, None, metadata)
        self.lost: str | None = None

    async def __aenter__(self) -> B:
        failed = False
        while True:
            try:
                return await super().__aenter__()
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

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        outgoing: BaseException | None = exc
        try:
            if await super().__aexit__(exc_type, exc, traceback):
                return True
        except Exception as raised:  # noqa: BLE001 - raised again, without the loss of the term
            outgoing = raised
        rest = self._without_loss(outgoing)
        if rest is None or rest is exc:
            return rest is None
        raise rest from rest.__cause__

    def _without_loss(self, error: BaseException | None) -> BaseException | None:
        """Return an error, or the rest of a group, without the loss of the term."""
        if isinstance(error, ExceptionGroup):
            return error.split(lambda part: self._is_loss(part))[1]  # noqa: PLW0108 - no method will do
        return None if error is None or self._is_loss(error) else error

    def _is_loss(self, error: BaseException) -> bool:
        if not isinstance(error, LeaseLostError) or error.key != self.key:
            return False
        self.lost = error.reason
        return True
