"""The tests that every store must pass, for the authors of backends.

Derive a class from that of each capability that the store has, name the same ones in
``capabilities``, and say how a store is opened, with the ``current_clock`` of
:mod:`gogoscope.persistence` or the clock of a test::

    class TestMyStore(LockConformance, CacheConformance):
        capabilities = {"locks", "cache", "processes"}

        @pytest.fixture
        def open_store(self, tmp_path):
            def open_store(key_prefix="", clock=current_clock):
                return MyStore(tmp_path, key_prefix=key_prefix, clock=clock)

            return open_store

        @pytest.fixture
        def url(self, tmp_path):
            return f"mine://{tmp_path}"

A place for entries (``CompareAndSwap``) has a class of its own, ``CompareAndSwapConformance``.

What is declared is tested, what is not is checked to be refused by a scope. The name of a test
that fails is the rule that was broken. Needs pytest; runs on the event loops of the fixture
``anyio_backend``, asyncio and trio unless it is overridden; draws values with hypothesis where
that is installed.
"""

from __future__ import annotations

import pytest

# Must come before the modules whose asserts are to explain themselves are imported.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            *("base", "cancelling", "races"),
            *("cache", "circuit_breakers", "compare_and_swap", "jobs", "locks", "permits"),
            *("rate_limits", "runs", "schedules", "transactions"),
        )
    )
)

from gogoscope.testing.conformance.base import Conformance as Conformance  # noqa: E402 - see above
from gogoscope.testing.conformance.base import ManualClock as ManualClock  # noqa: E402
from gogoscope.testing.conformance.base import OpenStore as OpenStore  # noqa: E402
from gogoscope.testing.conformance.cache.rules import CacheConformance  # noqa: E402
from gogoscope.testing.conformance.circuit_breakers.rules import CircuitBreakerConformance  # noqa: E402
from gogoscope.testing.conformance.compare_and_swap import CompareAndSwapConformance  # noqa: E402
from gogoscope.testing.conformance.compare_and_swap import OpenLossyPlace as OpenLossyPlace  # noqa: E402
from gogoscope.testing.conformance.compare_and_swap import OpenPlace as OpenPlace  # noqa: E402
from gogoscope.testing.conformance.jobs.rules import JobConformance  # noqa: E402
from gogoscope.testing.conformance.locks.rules import LockConformance  # noqa: E402
from gogoscope.testing.conformance.permits.rules import PermitConformance  # noqa: E402
from gogoscope.testing.conformance.rate_limits.rules import RateLimitConformance  # noqa: E402
from gogoscope.testing.conformance.runs.rules import RunConformance  # noqa: E402
from gogoscope.testing.conformance.schedules.rules import ScheduleConformance  # noqa: E402
from gogoscope.testing.conformance.transactions import (  # noqa: E402
    JoinsConnectionsConformance,
    TransactItemsConformance,
)
from gogoscope.testing.conformance.whole import StoreConformance  # noqa: E402

__all__ = [
    "CacheConformance",
    "CircuitBreakerConformance",
    "CompareAndSwapConformance",
    "Conformance",
    "JobConformance",
    "JoinsConnectionsConformance",
    "LockConformance",
    "ManualClock",
    "OpenLossyPlace",
    "OpenPlace",
    "OpenStore",
    "PermitConformance",
    "RateLimitConformance",
    "RunConformance",
    "ScheduleConformance",
    "StoreConformance",
    "TransactItemsConformance",
]
