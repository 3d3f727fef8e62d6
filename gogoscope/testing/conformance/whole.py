"""The whole kit, for a store with every capability."""

from __future__ import annotations

from gogoscope.testing.conformance.cache.rules import CacheConformance
from gogoscope.testing.conformance.circuit_breakers.rules import CircuitBreakerConformance
from gogoscope.testing.conformance.jobs.rules import JobConformance
from gogoscope.testing.conformance.locks.rules import LockConformance
from gogoscope.testing.conformance.permits.rules import PermitConformance
from gogoscope.testing.conformance.rate_limits.rules import RateLimitConformance
from gogoscope.testing.conformance.runs.rules import RunConformance
from gogoscope.testing.conformance.schedules.rules import ScheduleConformance


class StoreConformance(
    LockConformance,
    CircuitBreakerConformance,
    CacheConformance,
    RunConformance,
    JobConformance,
    PermitConformance,
    RateLimitConformance,
    ScheduleConformance,
):
    """Every rule of every capability: what a store made of ``RecordStore`` must keep."""

    capabilities = frozenset(
        {
            *("locks", "circuit_breakers", "cache", "runs", "jobs", "permits", "rate_limits"),
            "schedules",
        }
    )
