"""The kit for locks."""

from __future__ import annotations

from typing import ClassVar

from gogoscope.testing.conformance.locks.clocks import LockClockRules
from gogoscope.testing.conformance.locks.leases import LockLeaseRules
from gogoscope.testing.conformance.locks.model import LockModelRules
from gogoscope.testing.conformance.locks.safety import LockSafetyRules
from gogoscope.testing.conformance.locks.turns import LockTurnRules


class LockConformance(
    LockLeaseRules, LockTurnRules, LockClockRules, LockSafetyRules, LockModelRules
):
    """Every rule of ``LockProvider``: derive a test class from it."""

    capability: ClassVar = "locks"
