"""Mixing stores: one for each capability."""

from __future__ import annotations

from attrs import field, frozen

from gogoscope.exceptions import CapabilityNotSupportedError
from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerStateProvider
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.protocols.runs import RunProvider


@frozen
class Persistence:
    """A store for each capability; a scope may use several stores at once.

    :param locks: keeps locks
    :param circuit_breakers: keeps the state of circuit breakers
    :param cache: keeps cached values
    :param runs: keeps what is to be run once
    """

    locks: LockProvider | None = None
    circuit_breakers: CircuitBreakerStateProvider | None = None
    cache: CacheProvider | None = None
    runs: RunProvider | None = None
    _made_of: object = field(default=None, eq=False, repr=False, kw_only=True, alias="_made_of")

    @classmethod
    def of(cls, store: object) -> Persistence:
        """Return the capabilities of any store object, itself a bundle or not.

        :raises TypeError: if it has none
        """
        if isinstance(store, Persistence):
            return store
        bundle = cls(
            locks=store if isinstance(store, LockProvider) else None,
            circuit_breakers=store if isinstance(store, CircuitBreakerStateProvider) else None,
            cache=store if isinstance(store, CacheProvider) else None,
            runs=store if isinstance(store, RunProvider) else None,
            _made_of=store,
        )
        parts = (bundle.locks, bundle.circuit_breakers, bundle.cache, bundle.runs)
        if all(part is None for part in parts):
            if hasattr(store, "__aenter__"):
                raise TypeError(
                    f"persistence must be an open store, got {store!r}; enter it first: "
                    "async with open_persistence(url) as store"
                )
            raise TypeError(
                "persistence must be a URL, a store, or a Persistence bundle of stores, "
                f"got {store!r} of type {type(store).__name__}"
            )
        return bundle


def unsupported(capability: str, store: object) -> CapabilityNotSupportedError:
    """Return the error for a capability that a store lacks."""
    if isinstance(store, Persistence) and store._made_of is not None:
        store = store._made_of
    return CapabilityNotSupportedError(capability, type(store).__name__)
