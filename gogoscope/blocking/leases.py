"""What a client holds for a block: locks and permits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from gogoscope._core.arguments import check_count
from gogoscope.blocking.blocks import Lock, SharedLock
from gogoscope.blocking.handles import LockHandle
from gogoscope.blocking.hosts import Hosts, ask
from gogoscope.locks.acquire import check_patience
from gogoscope.permits.wish import What, wish
from gogoscope.persistence import lock_handle
from gogoscope.persistence.validation import check_key, check_lease, check_metadata
from gogoscope.scopes.scope import Scope


class Leases:
    """The part of a client that holds leases.

    :param hosts: the scope that works for the client
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def lock(
        self,
        key: str,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Lock:
        """Hold a lock for a block: ``with db.lock(key) as lock``.

        It is renewed at a third of its lease until the block ends; then it is released. If the
        lease is lost, ``lock.ensure()`` raises, and so does the end of the block. ``lock =
        db.lock(key).acquire()`` and ``lock.release()`` are the same without a block.

        :param key: the lock
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12
            hours: how long a dead holder blocks others
        :param wait: seconds to wait for it; ``None`` waits for ever
        :param metadata: what to tell people about the holder, besides host, pid and name
        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this thread holds it already
        """
        check_key(key)
        lease, patience = timedelta(seconds=check_lease(ttl)), check_patience(wait)
        told_of = check_metadata({} if metadata is None else metadata)
        return Lock(self._hosts, lambda s: s.lock(key, lease, patience, told_of), key)

    def acquire_lock(
        self, key: str, ttl: float | timedelta, wait: float | timedelta | None = 0
    ) -> LockHandle | None:
        """Take a lock that is not renewed; it is released when the client is closed at the latest.

        :param key: the lock
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12 hours
        :param wait: seconds to wait for it; ``None`` waits for ever
        :returns: a handle, itself a context manager, or ``None`` if it was not free in time
        :raises PersistenceError: if the store failed, or did not answer in time
        """
        check_key(key)
        lease, patience = timedelta(seconds=check_lease(ttl)), check_patience(wait)
        taken: list[tuple[Scope, lock_handle.LockHandle]] = []

        async def take(s: Scope) -> None:
            handle = await s.acquire_lock(key, lease, patience)
            if handle is not None:
                taken.append((s, handle))

        try:
            ask(self._hosts, take, "db.acquire_lock(key, ttl)")
            return LockHandle(self._hosts, *taken[0]) if taken else None
        except BaseException:
            for _, unused in taken:  # the thread was interrupted before it could have it
                self._hosts.call(partial(_release, unused), name="lock.release()").begin()
            raise

    def semaphore(
        self,
        key: str,
        limit: int,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> SharedLock:
        """Hold one of ``limit`` permits for a block: ``with db.semaphore(key, 5) as permit``.

        The parameters are those of :meth:`gogoscope.Scope.semaphore`.

        :raises LockTimeoutError: on entering, if no permit was free in time
        :raises LockError: on entering, if this thread holds ``limit`` permits already
        """
        return self._shared("semaphore", key, check_count("limit", limit), ttl, wait, metadata)

    def read_lock(
        self,
        key: str,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> SharedLock:
        """Read for a block, while nobody writes: ``with db.read_lock(key) as reading``.

        The parameters are those of :meth:`lock`.

        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this thread holds it already, for reading or writing
        """
        return self._shared("read_lock", key, None, ttl, wait, metadata)

    def write_lock(
        self,
        key: str,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> SharedLock:
        """Write for a block, alone: ``with db.write_lock(key) as writing``.

        The parameters are those of :meth:`lock`.

        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this thread holds it already, for reading or writing
        """
        return self._shared("write_lock", key, None, ttl, wait, metadata)

    def _shared(
        self,
        what: What,
        key: str,
        limit: int | None,
        ttl: float | timedelta,
        wait: float | timedelta | None,
        metadata: Mapping[str, str] | None,
    ) -> SharedLock:
        wanted = wish(what, key, limit, ttl, wait, metadata)
        lease = timedelta(seconds=wanted.lease)
        return SharedLock(
            self._hosts,
            lambda s: s._permit(what, key, limit, lease, wanted.patience, wanted.metadata),
            wanted,
        )


async def _release(handle: lock_handle.LockHandle, _: Scope) -> None:
    await lock_handle.release(handle)
