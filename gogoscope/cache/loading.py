"""How a caller of ``get_or_set`` gets its value: found, waited for, or loaded for everybody.

A caller looks into the local layer, then into the store. If it finds no fresh value there, one
caller loads it while all others wait. Two gates see to that:

1. A flight (:mod:`~gogoscope.cache.single_flight`) lets one caller of this process pass; the
   others wait for its outcome.
2. The lock ``get_or_set:KEY`` lets one process of the fleet pass; the others look into the store
   again and again, until they find the value or get the lock.

Whoever has passed both looks into the store once more, since the value may have come just before it
got the lock. Then it calls the function and stores what that returned, in the place of no value or
of an old one: never in that of a fresh one.

An old value that may still be used changes that. Within ``stale_while_revalidate`` all callers
get it at once, and one refresh runs beside them; a refresh does not wait for the lock, because a
process that holds it is refreshing already. Within ``stale_if_error`` callers load as above, and
get the old value only if that fails.

The invariants:

- For each key one function runs at a time in the whole fleet. While the store cannot be read or
  cannot lock, it is one in each process: the second gate is left out, and nobody is refused.
- What was loaded is stored only while the lock is held: whoever was paused for longer than its
  lease (a stopped process, a suspended machine) returns what it loaded, but does not keep it. Nor
  does it replace a fresh value, in one atomic step of the store: so even a pause in the middle of
  the write leaves the newer value of who took over, and a load without a lock leaves it, too.
- An error that a caller gets is that of a function, or says how ``get_or_set`` was used wrongly.
  The store's own errors end in the log and in events.
- The lock is released in every case, whichever await is cancelled. If the process dies, the lock
  is free when its lease has expired.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
from attrs import NOTHING, frozen

from gogoscope._core.background import Home, Observer, ProcessObserver, Spawn
from gogoscope._core.callables import NotAwaitableError
from gogoscope._core.cancellation import is_cancellation_of_caller
from gogoscope._core.clock import monotonic
from gogoscope._core.context import slots_lent
from gogoscope._core.errors import is_a
from gogoscope._core.groups import Companion
from gogoscope._core.interrupts import interruptible
from gogoscope._core.jitter import jittered
from gogoscope.cache.layers import Layers
from gogoscope.cache.outages import Answer, state_of
from gogoscope.cache.policy import CachePolicy
from gogoscope.cache.single_flight import LeftToOthersError, leave_all
from gogoscope.events import (
    CacheHit,
    CacheLoaded,
    CacheLoadFailed,
    CacheLoadStarted,
    CacheMissed,
    CacheStaleGiven,
    CacheStoreFailed,
    CacheStoreRecovered,
    Event,
    log_warning,
    new_id,
    subscribers,
)
from gogoscope.exceptions import CorruptRecordError, GogoscopeError, LeaseLostError
from gogoscope.persistence.default import run_in_default
from gogoscope.persistence.lease import Renewal
from gogoscope.persistence.lock_handle import LockHandle, release
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.values import is_storable
from gogoscope.persistence.watching import Stop, never_told, watch

FIRST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.5
LONGEST_KEY_IN_LOCK = 256


_process = ProcessObserver()


@frozen(eq=False)
class Context:
    """What all loads of a cache share.

    :param layers: where values are kept
    :param locks: the store of the locks; without one, every process loads for itself
    :param observer: gets the events; outside of scopes it is the process
    :param spawn: runs refreshes in the background; that of the default store outside of scopes
    """

    layers: Layers
    locks: LockProvider | None
    observer: Home | None = None
    spawn: Spawn = run_in_default

    def observed(self) -> bool:
        """Return whether anybody listens; quick, since it is asked for each value."""
        if subscribers:
            return True
        observer = self.observer
        return observer is not None and observer.on_event is not None

    def tell(self, event: Callable[..., Event], *details: object, number: int = 0) -> None:
        """Send an event to the observer, if anybody listens.

        :param number: of what the event is about
        """
        if self.observed():
            observer: Observer = self.observer or _process
            observer.emit(event(observer.name, *details, id=number))

    def tell_found(self, key: str, entry: CacheEntry | None) -> None:
        """Tell whether a look into the store found a fresh value."""
        if entry is not None and entry.left > 0:
            self.tell(CacheHit, key, False)
        else:
            self.tell(CacheMissed, key)


class Loading:
    """One call of ``get_or_set``.

    ``_called`` is whether its own function was called: an error is logged by the call that caused
    it, not by those that waited. ``_state`` is what this event loop knows of the store, looked
    up once the local layer has no value.

    :param context: where the value is kept, and what else a load needs
    :param key: the key of the value
    :param call: loads the value
    :param policy: how long it is kept
    """

    # _held: the lock under which this call loads; ``None`` while it has none.

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
        self._held: LockHandle | None = None

    async def value(self) -> Any:
        """Return the value.

        :raises Exception: what the function raised
        """
        found = self._context.layers.find(self._key)
        if found is not None:
            if self._context.observed():
                self._context.tell(CacheHit, self._key, True)
            return found.value
        if not self._context.observed():
            value = self._context.layers.peek(self._key)
            if value is not NOTHING:
                return value
        self._state = state_of(self._context.layers.store)
        entry = await self._read()
        if self._context.observed():
            self._context.tell_found(self._key, entry)
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
        """Load the value; if that fails, return the old one, unless it is too old by then."""
        ends_at = monotonic() + entry.left + self._policy.stale
        try:
            return await self._state.flights.run(self._key, load)
        except LeftToOthersError:
            self._tell_stale(None)
        except NotAwaitableError:
            raise
        except Exception as error:
            if monotonic() >= ends_at or is_cancellation_of_caller(error):
                raise
            if self._called:
                log_warning("the cached value of %r could not be refreshed", self._key, error=error)
            self._tell_stale(error)
        return entry.value

    async def _refresh_beside(self) -> None:
        """Replace an old value in the background, where an error has nobody to be raised for."""
        if self._key in self._state.flights:
            return
        leave_all()
        try:
            await self._state.flights.run(self._key, self._refresh)
        except LeftToOthersError:
            return
        except Exception as error:  # noqa: BLE001 - logged; the old value is still good
            if is_cancellation_of_caller(error):
                return
            log_warning("the cached value of %r could not be refreshed", self._key, error=error)
            self._tell_stale(error)

    async def _refresh(self) -> Any:
        """Load the value, unless another process is doing so.

        :raises LeftToOthersError: then
        """
        locks = self._context.locks
        answer = None if locks is None else await self._acquire(locks)
        if answer is None:
            return await self._load_alone()
        if answer.content is None:
            raise LeftToOthersError
        return await self._load_holding(answer.content)

    async def _load(self) -> Any:
        """Load the value, or wait for it if another process is loading it."""
        locks = self._context.locks
        claim = None if locks is None else await self._claim(locks)
        if claim is None:
            return await self._load_alone()
        if isinstance(claim, LockHandle):
            return await self._load_holding(claim)
        return claim.value

    async def _claim(self, locks: LockProvider) -> LockHandle | CacheEntry | None:
        """Wait until the lock is free or its owner has stored the value, whichever comes first.

        :returns: the lock, or the value; ``None`` if the store cannot lock
        """
        answer = await self._acquire(locks)
        pause = FIRST_POLL_SECONDS
        stop: Stop = never_told
        try:
            if answer is not None and answer.content is None:
                changed = anyio.Event()
                stop = watch(locks, "lock", self._lock_key(), lambda: changed.set())  # noqa: PLW0108
                async with slots_lent():
                    while answer is not None and answer.content is None:
                        with anyio.move_on_after(jittered(pause)):
                            await changed.wait()
                        changed = anyio.Event()
                        pause = min(2 * pause, LONGEST_POLL_SECONDS)
                        found = self._context.layers.find(self._key) or await self._read()
                        if found is not None and found.left > 0:
                            return found
                        answer = await self._acquire(locks)
        except BaseException:
            if answer is not None and answer.content is not None:
                await release(answer.content)  # cancelled while it took back its slot
            raise
        finally:
            stop()
        return None if answer is None else answer.content

    async def _load_holding(self, handle: LockHandle) -> Any:
        """Load the value while the lock is held and renewed, then release the lock."""
        outcome: Any = None
        failure: BaseException | None = None
        self._held = handle
        renewal = Renewal(handle)
        # Without renewals the load goes on: it is not kept if the lease is over by its end.
        renewing = Companion(partial(_renew, renewal), f"gogoscope load of {self._key}", int)
        try:
            await renewing.begin()
            try:
                outcome = await self._load_alone()
            except BaseException as raised:  # noqa: BLE001 - raised below, outside the group
                failure = raised
            renewal.stop()
            await renewing.end()
        finally:
            await release(handle)
        if failure is not None:
            raise failure
        return outcome

    async def _load_alone(self) -> Any:
        """Call the function and store its result, unless a fresh value is there by now."""
        found = await self._read(latest=True)
        if found is not None and found.left > 0:
            return found.value
        self._called = True
        value = await self._call_and_tell()
        if (found is not None or self._policy.stores(value)) and not self._is_too_late():
            keep = partial(self._set, value)
            kept = await self._state.ask(self._state.writes, keep, self._tell_store)
            if kept is not None and kept.content is not None:
                raise kept.content
        return value

    async def _call_and_tell(self) -> Any:
        """Call the function, and tell those who listen how it went."""
        tell, key, began = self._context.tell, self._key, time.monotonic()
        number = new_id() if self._context.observed() else 0
        tell(CacheLoadStarted, key, number=number)
        try:
            value = await interruptible(self._call())
        except BaseException as raised:
            error = raised if is_a(raised, Exception) else None
            tell(CacheLoadFailed, key, time.monotonic() - began, error, number=number)
            raise
        tell(CacheLoaded, key, time.monotonic() - began, number=number)
        return value

    def _is_too_late(self) -> bool:
        """Tell whether the lock was lost, so that somebody else may have loaded the value since."""
        try:
            if self._held is not None:
                self._held.ensure()
        except LeaseLostError as lost:
            log_warning("the loaded value of %r is not kept: %s", self._key, lost)
            return True
        return False

    async def _set(self, value: Any) -> Exception | None:
        """Store a loaded value, or remove the old one if the policy stores no such value.

        A fresh value that came meanwhile stays; when an old one is removed, one that comes in that
        very moment does not.

        :returns: the error if the value cannot be stored faithfully; it says so of the function
            that returned it, not of the store
        """
        layers, key = self._context.layers, self._key
        try:
            if self._policy.stores(value):
                ttl = self._policy.time_to_live(value)
                stale = self._policy.stale
                try:
                    await layers.store.set(key, value, ttl, if_absent=True, stale=stale)
                except CorruptRecordError:  # nobody can read what is there
                    await layers.store.set(key, value, ttl, stale=stale)
            elif await layers.store.get_entry(key, latest=True) is None:
                await layers.store.delete(key)
        except (TypeError, ValueError) as refusal:
            if is_storable(value):
                raise
            return refusal
        finally:
            layers.forget([key])
        return None

    async def _read(self, *, latest: bool = False) -> CacheEntry | None:
        read = partial(
            self._context.layers.get_entry, self._key, latest=latest, stale=self._policy.stale > 0
        )
        answer = await self._state.ask(self._state.reads, read, self._tell_store)
        return None if answer is None else answer.content

    async def _acquire(self, locks: LockProvider) -> Answer[LockHandle | None] | None:
        lease = timedelta(seconds=self._policy.lease)
        acquire = partial(locks.acquire, self._lock_key(), lease)
        return await self._state.ask(state_of(locks).locks, acquire, self._tell_store)

    def _lock_key(self) -> str:
        key = self._key
        if len(key) > LONGEST_KEY_IN_LOCK:
            key = hashlib.sha256(key.encode()).hexdigest()
        return f"get_or_set:{key}"

    def _tell_store(self, error: GogoscopeError | None) -> None:
        if error is None:
            self._context.tell(CacheStoreRecovered)
        else:
            self._context.tell(CacheStoreFailed, error)

    def _tell_stale(self, error: Exception | None) -> None:
        self._context.tell(CacheStaleGiven, self._key, error)


async def _renew(renewal: Renewal) -> None:
    lost = await renewal.run()
    if lost is not None and lost.__cause__ is not None:
        log_warning("the lock of a load could not be renewed", error=lost)
