"""What a store with every capability can do."""

from __future__ import annotations

from typing import Protocol

from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerStateProvider
from gogoscope.persistence.protocols.locks import LockProvider


class Store(LockProvider, CircuitBreakerStateProvider, CacheProvider, Protocol):
    """A store with all capabilities, as those that come with gogoscope have them.

    The backend of somebody else may lack a capability: its store then lacks the methods, and a
    scope that needs them raises :class:`~gogoscope.exceptions.CapabilityNotSupportedError`.
    """

    async def aclose(self) -> None:
        """Close the store, if it holds anything open; it may be opened again."""
        ...
