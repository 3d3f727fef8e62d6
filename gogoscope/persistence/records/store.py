"""A whole store over any place for records."""

from __future__ import annotations

from gogoscope.persistence.records.cache import RecordCache
from gogoscope.persistence.records.circuit_breakers import RecordCircuitBreakers
from gogoscope.persistence.records.locks import RecordLocks


class RecordStore(RecordLocks, RecordCircuitBreakers, RecordCache):
    """Locks, circuit breakers and a cache over one place for records."""
