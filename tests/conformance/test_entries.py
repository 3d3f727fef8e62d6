"""Places for entries pass the kit of their own, and a store over one that of any other store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, ClassVar

import pytest

from gogoscope._core.clock import Clock, current_clock
from gogoscope.persistence import (
    CompareAndSwap,
    CompareAndSwapRecords,
    Entry,
    RecordStore,
    open_persistence,
)
from gogoscope.testing.conformance import (
    CacheConformance,
    CircuitBreakerConformance,
    CompareAndSwapConformance,
    LockConformance,
    OpenLossyPlace,
    OpenPlace,
    OpenStore,
)
from gogoscope_dynamodb.entries import Entries
from gogoscope_dynamodb.requests import Table
from tests.support.dynamodb_faults import FaultyClient, losing
from tests.support.entries import DictPlace, LossyPlace


class TestDictPlace(CompareAndSwapConformance):
    works_after_close: ClassVar = True

    @pytest.fixture
    def entries(self) -> dict[Any, Entry]:
        return {}

    @pytest.fixture
    def open_place(self, entries: dict[Any, Entry]) -> OpenPlace:
        return lambda: nullcontext(_on(entries, DictPlace()))

    @pytest.fixture
    def open_lossy_place(self, entries: dict[Any, Entry]) -> OpenLossyPlace:
        return lambda lose: nullcontext(_on(entries, LossyPlace(lose)))


def _on(entries: dict[Any, Entry], place: DictPlace) -> DictPlace:
    place.entries = entries
    return place


class EntriesStore(RecordStore):
    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


class TestDynamoDBEntries(CompareAndSwapConformance):
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Leave trio out, on which aioboto3 does not run."""
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def open_place(self, atomic_dynamodb_url: str) -> OpenPlace:
        @asynccontextmanager
        async def open_place() -> AsyncIterator[CompareAndSwap]:
            async with open_persistence(atomic_dynamodb_url) as opened:
                store: Any = opened
                yield Entries(store._table, current_clock)

        return open_place

    @pytest.fixture
    def open_lossy_place(self, faulty_client: FaultyClient, dynamodb_table: str) -> OpenLossyPlace:
        @asynccontextmanager
        async def open_place(lose: Callable[[], bool]) -> AsyncIterator[CompareAndSwap]:
            faulty_client.constant_faults["put_item"] = losing(lose)
            yield Entries(Table(dynamodb_table, faulty_client, 5), current_clock)

        return open_place


@pytest.mark.slow
class TestEntries(LockConformance, CircuitBreakerConformance, CacheConformance):
    capabilities = frozenset({"locks", "circuit_breakers", "cache"})
    works_after_close: ClassVar = True

    @pytest.fixture
    def open_store(self) -> OpenStore:
        places: list[DictPlace] = []

        @asynccontextmanager
        async def open_store(
            key_prefix: str = "", clock: Clock = current_clock
        ) -> AsyncIterator[Any]:
            if not places:
                places.append(DictPlace(clock, page=1000))
            yield EntriesStore(CompareAndSwapRecords(places[0]), key_prefix=key_prefix)

        return open_store
