"""What a scope says of a store that lacks a capability."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import pytest
from attrs import frozen

from gogoscope import CapabilityNotSupportedError, CircuitBreaker, Persistence, scope
from gogoscope.persistence import (
    CompareAndSwapRecords,
    LockProvider,
    RecordCapability,
    RecordStore,
    json_kind,
    over_records,
)
from gogoscope.persistence.bundle import capabilities
from gogoscope.stores import MemoryStore
from gogoscope.testing import UnpluggableStore
from gogoscope.testing.conformance.base import KIT
from tests.support.entries import DictPlace

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
    parts: dict[str, Any] = dict.fromkeys(capabilities(), store)
    bundle = Persistence(**parts)
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


@runtime_checkable
class Numbers(Protocol):
    """A capability that somebody else has written."""

    async def next_number(self, key: str) -> int: ...


@frozen
class Number:
    n: int = 0


NUMBERS = json_kind("number", Number, lambda record, now_ms: None)


class RecordNumbers(RecordCapability):
    async def next_number(self, key: str) -> int:
        return await self._change(NUMBERS, key, _next)


def _next(record: Number | None, now_ms: int) -> tuple[Number, int]:
    n = (record or Number()).n + 1
    return Number(n), n


async def test_a_capability_of_somebody_else_runs_on_the_records_of_any_store() -> None:
    memory = MemoryStore()
    for store in (memory, RecordStore(CompareAndSwapRecords(DictPlace()))):
        for first in (1, 3):
            numbers: Numbers = over_records(RecordNumbers, store)
            assert await numbers.next_number("invoice") == first
            assert await numbers.next_number("invoice") == first + 1
    for below in (Persistence(locks=memory), UnpluggableStore(memory), Persistence.of(memory)):
        await over_records(RecordNumbers, below).next_number("invoice")
    assert await over_records(RecordNumbers, memory).next_number("invoice") == 8
    prefixed = memory.with_prefix("app:")
    assert await over_records(RecordNumbers, prefixed).next_number("invoice") == 1
    assert await memory.get("invoice") is None


async def test_a_store_without_records_carries_no_capability_over_records() -> None:
    with pytest.raises(CapabilityNotSupportedError, match="RecordCapability"):
        over_records(RecordNumbers, Persistence.of(only_locks()))
    with pytest.raises(TypeError, match="store must be a store or a bundle of stores, got 3"):
        over_records(RecordNumbers, 3)


async def test_a_store_is_found_in_a_bundle_by_what_it_can_do() -> None:
    class NumberStore(RecordNumbers, MemoryStore):
        pass

    store, numbers = MemoryStore(), NumberStore()
    assert numbers.capability(Numbers) is numbers
    assert Persistence.of(numbers).capability(Numbers) is numbers
    bundle = Persistence(locks=store, others=[numbers])
    assert bundle.capability(Numbers) is numbers
    assert bundle.capability(LockProvider) is store
    for lacking in (store, Persistence.of(store), Persistence(locks=store)):
        with pytest.raises(CapabilityNotSupportedError, match="does not support Numbers"):
            lacking.capability(Numbers)
    with pytest.raises(TypeError, match="protocol must be a Protocol or a class, got 'locks'"):
        store.capability("locks")  # type: ignore[arg-type]


def test_the_fields_of_a_bundle_are_the_only_list_of_capabilities() -> None:
    assert list(capabilities()) == [
        *("locks", "circuit_breakers", "cache", "runs", "jobs", "permits", "rate_limits"),
        "schedules",
    ]
    assert set(KIT) <= set(capabilities())
    for name, part in KIT.items():
        assert part.capability == name
        assert isinstance(MemoryStore(), capabilities()[name])
