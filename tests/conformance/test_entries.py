"""A store over a place for entries passes the kit that any other store must pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from gogoscope._core.clock import Clock, current_clock
from gogoscope.persistence import CompareAndSwapRecords, RecordStore
from gogoscope.testing.conformance import (
    CacheConformance,
    CircuitBreakerConformance,
    LockConformance,
    OpenStore,
)
from tests.support.entries import DictPlace


class EntriesStore(RecordStore):
    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


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
