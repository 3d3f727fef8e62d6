"""Finds the bucket that a rate limit works on, inside a scope and outside of any.

Inside a scope it is in the scope's store. Outside of any it is in the default store of the process,
if there is one in this event loop, and in the memory of the process otherwise.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from gogoscope._core.background import Home, ProcessObserver, Service, run_nothing
from gogoscope._core.context import current
from gogoscope._core.per_store import PerStore
from gogoscope.events import OnEvent
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.default import default_home_here
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

    __slots__ = ()

    id = 0
    on_event: OnEvent | None = None
    spawn = staticmethod(run_nothing)

    def check_open(self) -> None:
        """Do nothing: it is always open."""

    def check_here(self) -> None:
        """Do nothing: every event loop may use it."""

    def store(self) -> object:
        """Return the memory of the process."""
        return process_store()

    def attach(self, kind: type[S], make: Callable[[Home], S]) -> S:
        """Return a service that nobody else has."""
        return make(self)


_PROCESS = ProcessHome()


def home_here() -> Home:
    """Return the home of the calling code: its scope, the default store, or the process.

    :raises RuntimeError: in another event loop than that of the current scope
    """
    frame = current.get()
    if frame is None:
        return default_home_here() or _PROCESS
    frame._home.check_here()
    return frame._home


def bucket_in(policy: RatePolicy, store: object) -> Bucket:
    """Return the bucket of a policy in a store, or a bundle of stores.

    :raises CapabilityNotSupportedError: if it keeps no rate limits
    """
    provider = provider_of("rate_limits", store)
    return _buckets.of(provider).of(policy, provider)
