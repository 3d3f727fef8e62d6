"""Taking a lock for a scope, waiting for it if need be, and releasing it at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import anyio

from gogoscope._core.background import Home
from gogoscope._core.context import slots_lent
from gogoscope._core.durations import seconds
from gogoscope.events import LockAcquired, LockReleased
from gogoscope.exceptions import LockTimeoutError
from gogoscope.locks.lease import release
from gogoscope.locks.polling import Wanted
from gogoscope.locks.queue import queue_of
from gogoscope.locks.reentry import refuse_reentry
from gogoscope.persistence.bundle import Persistence, unsupported
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle
from gogoscope.persistence.lock_records import LockRecord
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.validation import check_key, check_lease


class Locks:
    """The locks that one scope holds without a block; attached to it, and settled at its end."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._handles: set[LockHandle] = set()

    @classmethod
    def of(cls, home: Home) -> Locks:
        """Return the locks of a scope."""
        return home.attach(cls, cls)

    @property
    def patience(self) -> float:
        """Seconds that the scope's end waits for a claim that is being taken back."""
        return CLEAN_UP_SECONDS

    async def acquire(
        self, key: str, ttl: float | timedelta, wait: float | timedelta | None
    ) -> LockHandle | None:
        """Take a lock that is released with the scope at the latest.

        :param ttl: the lease in seconds
        :param wait: seconds to wait for it; ``None`` waits for ever
        :raises LockError: if it would wait for a block of the same task to end
        """
        patience = check_patience(wait)
        if patience:
            refuse_reentry(locks_of(self._home), key)
        answer = await acquire(self._home, check_key(key), check_lease(ttl), patience, {})
        if not isinstance(answer, LockHandle):
            return None
        tell = answer.on_release

        def released(handle: LockHandle, freed: bool) -> None:
            self._handles.discard(handle)
            if tell is not None:
                tell(handle, freed)

        answer.on_release = released
        self._handles.add(answer)
        return answer

    async def settle(self) -> None:
        """Release the locks, all at once, so that they share one bound."""
        for handle in [handle for handle in self._handles if handle.lost is not None]:
            handle.abandon()
        if self._handles:
            async with anyio.create_task_group() as group:
                for handle in self._handles:
                    group.start_soon(release, handle)


async def acquire(
    home: Home, key: str, lease: float, patience: float, metadata: Mapping[str, str]
) -> LockHandle | LockRecord | None:
    """Take a lock for a scope; return its handle, or else who has it.

    :param lease: in seconds
    :param patience: seconds to wait; 0 asks once and never queues, ``math.inf`` waits for ever. For
        the answer to one request the wait may last a second; with 0 as long as the store allows it.
    """
    wanted = Wanted(lease, {"scope": home.name, **metadata}, home.spawn)
    queue = queue_of(locks_of(home), key)
    began = time.monotonic()
    answer: LockHandle | LockRecord | None = None
    try:
        if patience == 0:
            answer = await queue.acquire(wanted, patience)
        else:
            async with slots_lent():
                answer = await queue.acquire(wanted, patience)
    except BaseException:
        if isinstance(answer, LockHandle):  # cancelled while it waited for its slot
            await release(answer)
        raise
    if isinstance(answer, LockHandle):
        answer.on_release = partial(_tell_released, home)
        if home.observed:
            seconds = time.monotonic() - began
            home.emit(LockAcquired(home.name, key, answer.fencing_token, seconds))
    return answer


def locks_of(home: Home) -> LockProvider:
    """Return the locks of a scope's store.

    :raises CapabilityNotSupportedError: if it has none
    """
    store = home.store()
    provider = Persistence.of(store).locks
    if provider is None:
        raise unsupported("locks", store)
    return provider


def check_patience(wait: float | timedelta | None) -> float:
    """Return the seconds of an option ``wait=``; ``None`` waits for ever."""
    return math.inf if wait is None else seconds("wait", wait, zero=True, infinite=True)


def timeout_error(key: str, patience: float, record: LockRecord | None) -> LockTimeoutError:
    """Return the error for a lock that was not free in time, which tells who holds it."""
    found = f"lock {key!r} was not free" + (f" within {patience:g} s" if patience else "")
    if record is None or record.owner is None:
        return LockTimeoutError(found)
    place = ", ".join(f"{name} {value}" for name, value in record.metadata.items())
    return LockTimeoutError(f"{found}: held by {record.owner!r} ({place})")


def _tell_released(home: Home, handle: LockHandle, freed: bool) -> None:
    if home.observed:
        home.emit(LockReleased(home.name, handle.key, freed))
