"""A lock that is not renewed, in the hands of a thread."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

from gogoscope.blocking.hosts import Hosts, ask_of_held
from gogoscope.exceptions import LeaseLostError
from gogoscope.persistence import lock_handle
from gogoscope.scopes.scope import Scope


class LockHandle:
    """A lock that was taken with ``db.acquire_lock``, and is not renewed; it is a context manager.

    :param hosts: the client
    :param taken_in: the scope that worked for the client then
    :param handle: the lock in the loop
    """

    def __init__(self, hosts: Hosts, taken_in: Scope, handle: lock_handle.LockHandle) -> None:
        self._hosts = hosts
        self._taken_in = taken_in
        self._handle = handle
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} key={self.key!r}>"

    @property
    def key(self) -> str:
        """What is held."""
        return self._handle.key

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier holder."""
        return self._handle.fencing_token

    @property
    def expires_at(self) -> float:
        """When the lease ends, in seconds since the Unix epoch."""
        return self._handle.expires_at

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if it is not held any more
        """
        self._here().ensure()

    def is_valid(self) -> bool:
        """Ask the store whether this handle still holds the lock.

        :raises PersistenceError: if the store fails
        """
        handle = self._here()
        return self._ask(handle.is_valid, "lock.is_valid()")

    def extend(self, ttl: float | timedelta | None = None) -> bool:
        """Let the lease end ``ttl`` seconds from now; ``False`` if the lock is lost.

        :param ttl: the new lease in seconds; the present one if left out
        :raises PersistenceError: if the store fails
        """
        handle = self._here()
        return self._ask(lambda: handle.extend(ttl), "lock.extend(ttl)")

    def release(self) -> bool:
        """Free the lock; never raises for a lock that is lost, and never frees another's.

        :returns: whether this call freed the lock
        :raises PersistenceError: if the store fails; it may be called again then
        """
        if self._process != os.getpid():
            return False  # what the parent of this process holds is the parent's
        return self._ask(self._handle.release, "lock.release()")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process == os.getpid():
            self._ask(lambda: lock_handle.release(self._handle), "lock.release()")

    def _ask(self, work: Callable[[], Awaitable[object]], usage: str) -> bool:
        return ask_of_held(self._hosts, self._taken_in, work, usage)

    def _here(self) -> lock_handle.LockHandle:
        if self._process != os.getpid():
            raise LeaseLostError(self.key, "the process that this one was forked from holds it")
        return self._handle
