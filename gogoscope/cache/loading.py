"""How one value comes to be: found, waited for, or loaded by one caller for all."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from attrs import frozen

from gogoscope._core.background import Observer, Spawn, run_nothing
from gogoscope._core.callables import NotAwaitableError, callable_name
from gogoscope._core.clock import monotonic
from gogoscope._core.context import slots_lent
from gogoscope._core.jitter import jittered
from gogoscope.cache.layers import Layers
from gogoscope.cache.outages import Answer, StoreState, state_of
from gogoscope.cache.policy import CachePolicy
from gogoscope.cache.single_flight import LeftToOthersError, leave_all
from gogoscope.events import (
    CacheLoaded,
    CacheStaleGiven,
    CacheStoreFailed,
    CacheStoreRecovered,
    Event,
    log_warning,
)
from gogoscope.exceptions import GogoscopeError
from gogoscope.locks.lease import release
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.persistence.protocols.locks import LockProvider

FIRST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.5
RENEWALS_PER_LEASE = 3
LONGEST_KEY_IN_LOCK = 256


@frozen(eq=False)
class Context:
    """What the loads of a cache work with.

    :param layers: where its values are kept
    :param locks: where one process of the fleet takes the lock of a key; ``None`` if nowhere
    :param observer: is told of events
    :param spawn: runs refreshes in the background
    """

    layers: Layers
    locks: LockProvider | None
    observer: Observer | None = None
    spawn: Spawn = run_nothing

    def tell(self, event: type[Event], *details: object) -> None:
        """Tell the observer, if there is one, what happened."""
        if self.observer is not None and self.observer.observed:
            self.observer.emit(event(self.observer.name, *details))


class Loading:
    """One caller's wish for the value of a key.

    :param context: where it is kept, and what else is needed
    :param key: its key
    :param call: loads it
    :param policy: how long it is kept
    """

    def __init__(
        self,
        context: Context,
        key: str,
        call: Callable[[], Awaitable[object]],
        policy: CachePolicy,
    ) -> None:
        self._context = context
        self._key = key
        self._call = call
        self._policy = policy
        self._called = False
        self._state: StoreState = state_of(context.layers.store)

    async def value(self) -> Any:
        """Return the value.

        :raises Exception: what loading it raised
        """
        found = self._context.layers.find(self._key)
        if found is not None:
            return found.value
        entry = await self._read()
        if entry is None:
            return await self._state.flights.run(self._key, self._load)
        if entry.left > 0:
            return entry.value
        if not self._policy.may_wait_for_refresh(entry.left):
            return await self._load_or_keep(entry, self._load)
        flights, spawn = self._state.flights, self._context.spawn
        if self._key not in flights and not spawn(self._refresh_beside):
            return await self._load_or_keep(entry, self._refresh)
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
        locks = self._context.locks
        answer = None if locks is None else await self._acquire(locks)
        if answer is None:
            return await self._load_alone()
        if answer.content is None:
            raise LeftToOthersError
        return await self._load_holding(answer.content)

    async def _load(self) -> Any:
        """Load the value when nobody else in the fleet does; else wait for theirs."""
        locks = self._context.locks
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
                        found = self._context.layers.find(self._key) or await self._read()
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
        self._context.tell(CacheLoaded, self._key, time.monotonic() - began)
        if found is not None or self._policy.stores(value):
            keep = partial(self._keep, value)
            await self._state.ask(self._state.writes, keep, self._tell_store)
        return value

    async def _keep(self, value: Any) -> None:
        """Store a loaded value; if it is not to be kept, remove the old one."""
        store = self._context.layers.store
        with self._context.layers.changing([self._key]):
            if self._policy.stores(value):
                ttl = self._policy.time_to_live(value)
                await store.set(self._key, value, ttl, stale=self._policy.stale)
            else:
                await store.delete(self._key)

    async def _read(self, *, latest: bool = False) -> CacheEntry | None:
        read = partial(
            self._context.layers.read, self._key, latest=latest, stale=self._policy.stale > 0
        )
        answer = await self._state.ask(self._state.reads, read, self._tell_store)
        return None if answer is None else answer.content

    async def _acquire(self, locks: LockProvider) -> Answer[LockHandle | None] | None:
        key = self._key
        if len(key) > LONGEST_KEY_IN_LOCK:
            key = hashlib.sha256(key.encode()).hexdigest()
        acquire = partial(locks.acquire, f"get_or_set:{key}", self._policy.lease)
        return await self._state.ask(state_of(locks).locks, acquire, self._tell_store)

    def _tell_store(self, error: GogoscopeError | None) -> None:
        if error is None:
            self._context.tell(CacheStoreRecovered)
        else:
            self._context.tell(CacheStoreFailed, error)

    def _tell_stale(self, error: Exception | None) -> None:
        self._context.tell(CacheStaleGiven, self._key, error)


async def _renew(handle: LockHandle) -> None:
    while handle.lost is None:
        await anyio.sleep(handle.lease / RENEWALS_PER_LEASE)
        try:
            await handle.extend()
        except GogoscopeError as error:
            log_warning("%r could not be renewed", handle, error=error)
