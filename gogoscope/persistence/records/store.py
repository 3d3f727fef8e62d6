"""A whole store over any place for records."""

from __future__ import annotations

from gogoscope.persistence.records.cache import RecordCache
from gogoscope.persistence.records.circuit_breakers import RecordCircuitBreakers
from gogoscope.persistence.records.locks import RecordLocks
from gogoscope.persistence.records.runs import RecordRuns


class RecordStore(RecordLocks, RecordCircuitBreakers, RecordCache, RecordRuns):
    """Locks, circuit breakers, a cache and runs over one place for records."""
