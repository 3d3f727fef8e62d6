"""What a scope says of a store that lacks a capability."""

from __future__ import annotations

from typing import Any

import pytest

from gogoscope import CapabilityNotSupportedError, CircuitBreaker, Persistence, scope
from gogoscope.persistence import LockProvider
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio


class OnlyLocks:
    """A store that keeps locks and nothing else."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if name in dir(LockProvider) and not name.startswith("_"):
            return getattr(self._store, name)
        raise AttributeError(name)


async def nothing() -> None:
    return


async def test_the_error_for_a_missing_capability_names_the_store_that_was_passed() -> None:
    async with scope(persistence=OnlyLocks()) as s:
        with pytest.raises(CapabilityNotSupportedError, match="OnlyLocks does not support cache"):
            _ = s.cache
        with pytest.raises(CapabilityNotSupportedError, match="OnlyLocks does not support circuit"):
            s.task(nothing, circuit_breaker=CircuitBreaker("payments"))


async def test_what_a_bundle_is_made_of_makes_no_difference_to_its_equality() -> None:
    store = MemoryStore()
    assert Persistence.of(store) == Persistence(locks=store, circuit_breakers=store, cache=store)
    assert "made_of" not in repr(Persistence.of(store))
