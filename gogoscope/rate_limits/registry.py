"""Finds the bucket that a rate limit works on, inside a scope and outside of any.

Inside a scope it is in the scope's store. Outside of any it is in the default store of the process,
if there is one in this event loop, and in the memory of the process otherwise. There, the places of
a batch that may be used at once are kept in ``ready``, where a call takes one without asking
anybody, not even the clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from gogoscope._core.background import Home, ProcessObserver, Service, run_nothing
from gogoscope._core.context import current
from gogoscope._core.forks import after_fork
from gogoscope._core.per_store import PerStore
from gogoscope.events import OnEvent
from gogoscope.persistence.bundle import Persistence, provider_of
from gogoscope.persistence.default import default_home, default_home_here, on_change
from gogoscope.rate_limits.bucket import Bucket
from gogoscope.rate_limits.policy import RatePolicy
from gogoscope.stores.memory import process_store

REMEMBERED = 1024
"""How many unused buckets of each store are remembered."""

S = TypeVar("S", bound=Service)


class _Buckets:
    """The buckets of one store in one event loop: those in use, and those that were used last.

    Policies that say the same share one, however often they are written.
    """

    def __init__(self) -> None:
        self._in_use: WeakValueDictionary[tuple[object, ...], Bucket] = WeakValueDictionary()
        self._last_used: OrderedDict[tuple[object, ...], Bucket] = OrderedDict()

    def of(self, policy: RatePolicy, store: object) -> Bucket:
        key = policy._same
        bucket = self._in_use.get(key)
        if bucket is None:
            self._in_use[key] = bucket = Bucket(policy, provider_of("rate_limits", store))
        self._last_used[key] = bucket
        self._last_used.move_to_end(key)
        if len(self._last_used) > REMEMBERED:
            self._last_used.popitem(last=False)
        return bucket


_buckets = PerStore("rate_limits", _Buckets)


class ProcessHome(ProcessObserver):
    """The home of what is used outside of scopes, where there is no default store."""

    __slots__ = ("_bundle",)

    id = 0
    on_event: OnEvent | None = None
    spawn = staticmethod(run_nothing)

    def __init__(self) -> None:
        self._bundle: Persistence | None = None

    def check_open(self) -> None:
        """Do nothing: it is always open."""

    def check_here(self) -> None:
        """Do nothing: every event loop may use it."""

    def store(self) -> object:
        """Return the memory of the process."""
        store, bundle = process_store(), self._bundle
        if bundle is None or bundle.rate_limits is not store:
            bundle = self._bundle = Persistence.of(store)
        return bundle

    def attach(self, kind: type[S], make: Callable[[Home], S]) -> S:
        """Return a service that nobody else has."""
        return make(self)


PROCESS = ProcessHome()

ready: dict[RatePolicy, list[None]] = {}
"""The places that calls outside of scopes may use at once, of the memory of this process.

Taking one is atomic, so any thread may do it.
"""


def keep_ready(policy: RatePolicy, bucket: Bucket) -> None:
    """Keep the places of a batch ready that a process holds in its own memory."""
    if len(ready) >= REMEMBERED:
        ready.clear()
    if default_home() is None:
        ready[policy] = [None] * bucket.take_ready()


def home_here() -> Home:
    """Return the home of the calling code: its scope, the default store, or the process.

    :raises RuntimeError: in another event loop than that of the current scope
    """
    frame = current.get()
    if frame is None:
        return default_home_here() or PROCESS
    frame._home.check_here()
    return frame._home


def bucket_in(policy: RatePolicy, store: object) -> Bucket:
    """Return the bucket of a policy in a store, or a bundle of stores.

    :raises CapabilityNotSupportedError: if it keeps no rate limits
    """
    provider = provider_of("rate_limits", store)
    return _buckets.of(provider).of(policy, provider)


# With a default store, code outside of any scope works on that; a forked process has other memory.
on_change(ready.clear)
after_fork(ready.clear)
