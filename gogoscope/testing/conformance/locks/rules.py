"""The kit for locks."""

from __future__ import annotations

from typing import Any, ClassVar

from gogoscope import Scope
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

    @staticmethod
    async def look(store: Any) -> object:
        """Read a lock that nobody has taken."""
        return await store.read_lock("k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Take a lock through a scope."""
        await s.acquire_lock("k", 1)
