"""The kit for caches."""

from __future__ import annotations

from typing import ClassVar

from gogoscope.testing.conformance.cache_keys import CacheKeyRules
from gogoscope.testing.conformance.cache_many import CacheBatchRules
from gogoscope.testing.conformance.cache_safety import CacheSafetyRules
from gogoscope.testing.conformance.cache_values import CacheValueRules


class CacheConformance(CacheValueRules, CacheKeyRules, CacheBatchRules, CacheSafetyRules):
    """Every rule of ``CacheProvider``: derive a test class from it."""

    capability: ClassVar = "cache"
