"""The kit for circuit breakers."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio

from gogoscope import CircuitBreaker, Scope
from gogoscope.testing.conformance.circuit_breakers.clocks import CircuitClockRules
from gogoscope.testing.conformance.circuit_breakers.control import CircuitControlRules
from gogoscope.testing.conformance.circuit_breakers.counting import CircuitCountingRules
from gogoscope.testing.conformance.circuit_breakers.model import CircuitModelRules
from gogoscope.testing.conformance.circuit_breakers.probing import CircuitProbingRules
from gogoscope.testing.conformance.circuit_breakers.safety import CircuitSafetyRules


class CircuitBreakerConformance(
    CircuitCountingRules,
    CircuitProbingRules,
    CircuitControlRules,
    CircuitClockRules,
    CircuitSafetyRules,
    CircuitModelRules,
):
    """Every rule of ``CircuitBreakerStateProvider``: derive a test class from it."""

    capability: ClassVar = "circuit_breakers"

    @staticmethod
    async def look(store: Any) -> object:
        """Read a circuit of which nothing was recorded."""
        return await store.get_state("k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Call a function through a circuit breaker of a scope."""
        (await s.task(anyio.sleep, 0, circuit_breaker=CircuitBreaker(name="k"))).unwrap()
