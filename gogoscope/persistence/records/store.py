"""A whole store over any place for records, and what every store has over its records."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gogoscope.persistence.bundle import first_of
from gogoscope.persistence.records.cache import RecordCache
from gogoscope.persistence.records.circuit_breakers import RecordCircuitBreakers
from gogoscope.persistence.records.examining import RecordExamination
from gogoscope.persistence.records.jobs import RecordJobs
from gogoscope.persistence.records.locks import RecordLocks
from gogoscope.persistence.records.permits import RecordPermits
from gogoscope.persistence.records.place import Kind, RecordCapability
from gogoscope.persistence.records.rate_limits import RecordRateLimits
from gogoscope.persistence.records.runs import RecordRuns
from gogoscope.persistence.records.schedules import RecordSchedules

P = TypeVar("P")
R = TypeVar("R", bound=RecordCapability)

_PING = Kind[str]("ping", str, lambda text, purge_at_ms: text, lambda text, now_ms: None)
"""A kind of which there is no record."""


class AnyStore(RecordExamination):
    """What every store has, whatever it can do."""

    async def ping(self) -> None:
        """Make sure that the store answers, by one read: for readiness probes.

        :raises PersistenceError: if it does not
        :raises ConfigurationError: if it does, but cannot be used as it is configured
        """
        await self._records.read(_PING, self._full_key("ping"))

    def capability(self, protocol: Callable[..., P]) -> P:
        """Return this store, as one that has a capability which somebody else has written.

        :param protocol: a Protocol that is ``runtime_checkable``, or a class
        :raises CapabilityNotSupportedError: if the store does not have it
        """
        return first_of([self], protocol, self)


class BaseStore(RecordRuns, RecordJobs, RecordPermits, RecordRateLimits, RecordSchedules, AnyStore):
    """What every store of ours has, whatever its engine: what is written once, over its records.

    A new capability over records is one more base of this class.
    """


class RecordStore(RecordLocks, RecordCircuitBreakers, RecordCache, BaseStore):
    """Every capability over one place for records."""


def over_records(capability: type[R], store: object) -> R:
    """Return a capability over the records of a store, below its prefix and with its codec.

    So a capability that somebody else writes runs on every store: all of gogoscope's keep records.

    :param capability: a class derived from :class:`RecordCapability`
    :param store: any store, or a bundle of stores
    :raises TypeError: if it is none
    :raises CapabilityNotSupportedError: if it has no records
    """
    find = getattr(store, "capability", None)
    if find is None:
        raise TypeError(
            f"store must be a store or a bundle of stores, got {store!r} of type "
            f"{type(store).__name__}"
        )
    base: RecordCapability = find(RecordCapability)
    return capability(
        base._records,
        key_prefix=base._key_prefix,
        codec=base._codec,
        max_clock_skew=base._skew_ms / 1000,
    )
