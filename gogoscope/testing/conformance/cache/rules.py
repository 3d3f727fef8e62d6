"""All rules of a store of cached values."""

from __future__ import annotations

from typing import ClassVar

from gogoscope.testing.conformance.cache.keys import CacheKeyRules
from gogoscope.testing.conformance.cache.many import CacheBatchRules
from gogoscope.testing.conformance.cache.safety import CacheSafetyRules
from gogoscope.testing.conformance.cache.values import CacheValueRules


class CacheConformance(CacheValueRules, CacheKeyRules, CacheBatchRules, CacheSafetyRules):
    """Every rule of ``CacheProvider``: derive a test class from it."""

    capability: ClassVar = "cache"
