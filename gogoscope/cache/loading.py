"""How one value comes to be: found, waited for, or loaded by one caller for all."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from gogoscope._core.callables import NotAwaitableError, callable_name
from gogoscope._core.clock import monotonic
from gogoscope._core.context import slots_lent
from gogoscope._core.jitter import jittered
from gogoscope.cache.outages import Answer, Outage, ask, state_of
from gogoscope.cache.single_flight import LeftToOthersError, leave_all
from gogoscope.events import log_warning
from gogoscope.exceptions import GogoscopeError
from gogoscope.locks.lease import release
from gogoscope.persistence.lock_handle import LockHandle

if TYPE_CHECKING:
    from gogoscope.cache.cache import Cache
    from gogoscope.cache.policy import CachePolicy
    from gogoscope.persistence.protocols.cache import CacheEntry
    from gogoscope.persistence.protocols.locks import LockProvider

FIRST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.5
RENEWALS_PER_LEASE = 3
LONGEST_KEY_IN_LOCK = 256

Reply = TypeVar("Reply")


class Loading:
    """One caller's wish for the value of a key.

    :param cache: where it is kept
    :param key: its key
    :param call: loads it
    :param policy: how long it is kept
    """

    def __init__(
        self, cache: Cache, key: str, call: Callable[[], Awaitable[object]], policy: CachePolicy
    ) -> None:
        self._cache = cache
        self._key = key
        self._call = call
        self._policy = policy
        self._called = False
        self._state = state_of(cache.provider)

    async def value(self) -> Any:
        """Return the value.

        :raises Exception: what loading it raised
        """
        entry = await self._read()
        if entry is None:
            return await self._state.flights.run(self._key, self._load)
        if entry.left > 0:
            return entry.value
        if not self._policy.may_wait_for_refresh(entry.left):
            return await self._load_or_keep(entry, self._load)
        if self._key not in self._state.flights:
            if self._cache.host is None:
                return await self._load_or_keep(entry, self._refresh)
            self._cache.spawn(self._refresh_beside)
        self._tell_stale(None)
        return entry.value

    async def _load_or_keep(self, entry: CacheEntry, load: Callable[[], Awaitable[Any]]) -> Any:
        """Load the value; give the old one if that fails, unless it is too old by then."""
        ends_at = monotonic() + entry.left + self._policy.stale
        try:
            return await self._state.flights.run(self._key, load)
        except LeftToOthersError:
            self._tell_stale(None)
        except NotAwaitableError:
            raise
        except Exception as error:
            if monotonic() >= ends_at:
                raise
            if self._called:
                log_warning("the cached value of %r could not be refreshed", self._key, error=error)
            self._tell_stale(error)
        return entry.value

    async def _refresh_beside(self) -> None:
        """Replace an old value in the background, which no error may reach."""
        if self._key in self._state.flights:
            return
        leave_all()
        try:
            await self._state.flights.run(self._key, self._refresh)
        except LeftToOthersError:
            return
        except Exception as error:  # noqa: BLE001 - logged; the old value is still good
            log_warning("the cached value of %r could not be refreshed", self._key, error=error)
            self._tell_stale(error)

    async def _refresh(self) -> Any:
        """Load the value, unless another process does."""
        locks = self._cache.locks
        answer = None if locks is None else await self._acquire(locks)
        if answer is None:
            return await self._load_alone()
        if answer.content is None:
            raise LeftToOthersError
        return await self._load_holding(answer.content)

    async def _load(self) -> Any:
        """Load the value when nobody else in the fleet does; else wait for theirs."""
        locks = self._cache.locks
        claim = None if locks is None else await self._claim(locks)
        if claim is None:
            return await self._load_alone()
        if isinstance(claim, LockHandle):
            return await self._load_holding(claim)
        return claim.value

    async def _claim(self, locks: LockProvider) -> LockHandle | CacheEntry | None:
        """Wait for the lock or for a value that its holder loads; ``None`` if the store is down."""
        answer = await self._acquire(locks)
        pause = FIRST_POLL_SECONDS
        try:
            if answer is not None and answer.content is None:
                async with slots_lent():
                    while answer is not None and answer.content is None:
                        await anyio.sleep(jittered(pause))
                        pause = min(2 * pause, LONGEST_POLL_SECONDS)
                        found = await self._read()
                        if found is not None and found.left > 0:
                            return found
                        answer = await self._acquire(locks)
        except BaseException:
            if answer is not None and answer.content is not None:
                await release(answer.content)  # cancelled while it waited for its slot
            raise
        return None if answer is None else answer.content

    async def _load_holding(self, handle: LockHandle) -> Any:
        """Load the value under a lock, which is renewed till then, unless it is there already."""
        outcome: Any = None
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_renew, handle)
                try:
                    outcome = await self._load_alone()
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as raised:  # noqa: BLE001 - raised below, outside the group
                    failure = raised
                group.cancel_scope.cancel()
        finally:
            await release(handle)
        if failure is not None:
            raise failure
        return outcome

    async def _load_alone(self) -> Any:
        """Load the value, unless somebody just did, and keep it."""
        found = await self._read(latest=True)
        if found is not None and found.left > 0:
            return found.value
        began = time.monotonic()
        self._called = True
        awaitable = self._call()
        if not inspect.isawaitable(awaitable):
            raise NotAwaitableError(
                f"fn must be an async function, but {callable_name(self._call)} returned "
                f"{awaitable!r}; run one that is not with anyio.to_thread.run_sync(fn, *args)"
            )
        value = await awaitable
        self._tell_loaded(time.monotonic() - began)
        cache, key = self._cache, self._key
        writes, ttl = self._state.writes, self._policy.time_to_live(value)
        if self._policy.stores(value):
            await self._ask(writes, lambda: cache.set(key, value, ttl, stale=self._policy.stale))
        elif found is not None:
            await self._ask(writes, lambda: cache.delete(key))
        return value

    async def _read(self, *, latest: bool = False) -> CacheEntry | None:
        if not latest and self._cache.local is not None:
            found = self._cache.local.find(self._key)
            if found is not None:
                return found
        answer = await self._ask(
            self._state.reads,
            lambda: self._cache.get_entry(self._key, latest=latest, stale=self._policy.stale > 0),
        )
        return None if answer is None else answer.content

    async def _acquire(self, locks: LockProvider) -> Answer[LockHandle | None] | None:
        key = self._key
        if len(key) > LONGEST_KEY_IN_LOCK:
            key = hashlib.sha256(key.encode()).hexdigest()
        return await self._ask(
            state_of(locks).locks, lambda: locks.acquire(f"get_or_set:{key}", self._policy.lease)
        )

    async def _ask(
        self, outage: Outage, request: Callable[[], Awaitable[Reply]]
    ) -> Answer[Reply] | None:
        # A store that cannot be read is of no use, and every request to it might take its time.
        if self._state.reads.lasts():
            return None
        return await ask(outage, request, self._tell_store)

    def _tell_store(self, error: GogoscopeError | None) -> None:
        host = self._cache.host
        if host is not None and host.observed:
            from gogoscope import events  # noqa: PLC0415 - only if anybody listens

            if error is None:
                host.emit(events.CacheStoreRecovered(host.name))
            else:
                host.emit(events.CacheStoreFailed(host.name, error))

    def _tell_loaded(self, seconds: float) -> None:
        host = self._cache.host
        if host is not None and host.observed:
            from gogoscope.events import CacheLoaded  # noqa: PLC0415 - only if anybody listens

            host.emit(CacheLoaded(host.name, self._key, seconds))

    def _tell_stale(self, error: Exception | None) -> None:
        host = self._cache.host
        if host is not None and host.observed:
            from gogoscope.events import CacheStaleGiven  # noqa: PLC0415 - only if anybody listens

            host.emit(CacheStaleGiven(host.name, self._key, error))


async def _renew(handle: LockHandle) -> None:
    while handle.lost is None:
        await anyio.sleep(handle.lease / RENEWALS_PER_LEASE)
        try:
            await handle.extend()
        except GogoscopeError as error:
            log_warning("%r could not be renewed", handle, error=error)
