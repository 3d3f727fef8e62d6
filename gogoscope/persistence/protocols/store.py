"""What a store with every capability can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerStateProvider
from gogoscope.persistence.protocols.jobs import JobProvider
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.protocols.permits import PermitProvider
from gogoscope.persistence.protocols.rate_limits import RateLimitProvider
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.protocols.schedules import ScheduleProvider

P = TypeVar("P")


class Store(
    LockProvider,
    CircuitBreakerStateProvider,
    CacheProvider,
    JobProvider,
    PermitProvider,
    RateLimitProvider,
    RunProvider,
    ScheduleProvider,
    Protocol,
):
    """A store with all capabilities, as those that come with gogoscope have them.

    The backend of somebody else may lack a capability: its store then lacks the methods, and a
    scope that needs them raises :class:`~gogoscope.exceptions.CapabilityNotSupportedError`.
    """

    async def ping(self) -> None:
        """Make sure that the store answers, by one read: for readiness probes.

        :raises PersistenceError: if it does not
        :raises ConfigurationError: if it does, but cannot be used as it is configured
        """
        ...

    def capability(self, protocol: Callable[..., P]) -> P:
        """Return this store, as one that has a capability which somebody else has written.

        :param protocol: a Protocol that is ``runtime_checkable``, or a class
        :raises CapabilityNotSupportedError: if the store does not have it
        """
        ...

    async def aclose(self) -> None:
        """Close the store, if it holds anything open; it may be opened again."""
        ...
