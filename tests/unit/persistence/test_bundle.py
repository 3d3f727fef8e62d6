"""What a scope says of a store that lacks a capability."""

from __future__ import annotations

import pytest

from gogoscope import CapabilityNotSupportedError, CircuitBreaker, Persistence, scope
from gogoscope.persistence import LockProvider
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio


async def nothing(*args: object, **options: object) -> None:
    return


def only_locks() -> object:
    """Return a store that keeps locks and nothing else."""
    methods = [name for name in dir(LockProvider) if not name.startswith("_")]
    return type("OnlyLocks", (), dict.fromkeys(methods, nothing))()


async def test_the_error_for_a_missing_capability_names_the_store_that_was_passed() -> None:
    async with scope(persistence=only_locks()) as s:
        with pytest.raises(CapabilityNotSupportedError, match="OnlyLocks does not support cache"):
            _ = s.cache
        with pytest.raises(CapabilityNotSupportedError, match="OnlyLocks does not support circuit"):
            s.task(nothing, circuit_breaker=CircuitBreaker("payments"))


async def test_what_a_bundle_is_made_of_makes_no_difference_to_its_equality() -> None:
    store = MemoryStore()
    bundle = Persistence(locks=store, circuit_breakers=store, cache=store, runs=store)
    assert Persistence.of(store) == bundle
    assert "made_of" not in repr(Persistence.of(store))


async def test_a_store_is_never_compared_nor_hashed() -> None:
    class Odd(MemoryStore):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("a store was compared")

        def __hash__(self) -> int:
            raise AssertionError("a store was hashed")

    async def load() -> int:
        return 1

    for store in (Odd(), Odd()):
        async with scope(persistence=store) as s, s.lock("key", wait=0):
            assert await s.cache.get_or_set("key", load, 60) == 1
            assert await s.task(load, circuit_breaker=CircuitBreaker("payments")) == (None, 1)
            async with s.child() as inner:
                handle = await inner.acquire_lock("other", 5)
                assert handle is not None
