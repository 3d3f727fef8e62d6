"""The kit for circuit breakers."""

from __future__ import annotations

from typing import ClassVar

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
