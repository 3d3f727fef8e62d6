"""A whole store over any place for records."""

from __future__ import annotations

from gogoscope.persistence.record_cache import RecordCache
from gogoscope.persistence.record_circuit_breakers import RecordCircuitBreakers
from gogoscope.persistence.record_locks import RecordLocks


class RecordStore(RecordLocks, RecordCircuitBreakers, RecordCache):
    """Locks, circuit breakers and a cache over one place for records."""
