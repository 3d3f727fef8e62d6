"""All rules of a store of cached values."""

from __future__ import annotations

from typing import Any, ClassVar

from gogoscope import Scope
from gogoscope.testing.conformance.cache.keys import CacheKeyRules
from gogoscope.testing.conformance.cache.many import CacheBatchRules
from gogoscope.testing.conformance.cache.safety import CacheSafetyRules
from gogoscope.testing.conformance.cache.values import CacheValueRules


class CacheConformance(CacheValueRules, CacheKeyRules, CacheBatchRules, CacheSafetyRules):
    """Every rule of ``CacheProvider``: derive a test class from it."""

    capability: ClassVar = "cache"

    @staticmethod
    async def look(store: Any) -> object:
        """Read a key that has no value."""
        return await store.get("k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Read a value through a scope."""
        await s.cache.get("k")
