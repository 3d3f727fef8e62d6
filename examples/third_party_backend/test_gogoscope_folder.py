"""The folder passes the kit on both levels, and opens by its URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gogoscope_folder import FolderStore, LockedFolder
from gogoscope_folder_swaps import FolderEntries, SwappingFolderStore

from gogoscope import InvalidURLError, PersistenceError, open_persistence
from gogoscope.persistence import Clock, CompareAndSwap, Entry, Swapped, current_clock
from gogoscope.testing.conformance import (
    CompareAndSwapConformance,
    OpenLossyPlace,
    OpenPlace,
    OpenStore,
    StoreConformance,
)


class TestFolder(StoreConformance):
    capabilities = StoreConformance.capabilities | {"processes"}

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        def open_store(key_prefix: str = "", clock: Clock = current_clock) -> FolderStore:
            return FolderStore(tmp_path, key_prefix=key_prefix, clock=clock)

        return open_store

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"folder://{tmp_path}"


@pytest.mark.anyio
async def test_a_url_opens_a_folder_below_a_prefix(tmp_path: Path) -> None:
    async with open_persistence(f"folder://{tmp_path}?key_prefix=app:") as store:
        await store.set("k", 1)
    async with FolderStore(tmp_path) as store:
        assert await store.keys() == ["app:k"]


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["folder://relative", "folder:///tmp?nope=1"])
async def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidURLError):
        async with open_persistence(url):
            pytest.fail("it opened")


@pytest.mark.anyio
async def test_a_missing_folder_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(PersistenceError, match="failed"):
        async with FolderStore(tmp_path / "missing"):
            pytest.fail("it opened")


class TestFolderEntries(CompareAndSwapConformance):
    @pytest.fixture
    def open_place(self, tmp_path: Path) -> OpenPlace:
        @asynccontextmanager
        async def open_place() -> AsyncIterator[CompareAndSwap]:
            async with SwappingFolderStore(tmp_path) as store:
                yield store.entries

        return open_place

    @pytest.fixture
    def open_lossy_place(self, tmp_path: Path) -> OpenLossyPlace:
        @asynccontextmanager
        async def open_lossy(lose: Callable[[], bool]) -> AsyncIterator[CompareAndSwap]:
            async with SwappingFolderStore(tmp_path) as store:
                yield LossyEntries(store.folder, lose)

        return open_lossy


class LossyEntries(FolderEntries):
    """Loses answers, and sends requests again, as a client of a server would."""

    def __init__(self, folder: LockedFolder, lose: Callable[[], bool]) -> None:
        super().__init__(folder, current_clock)
        self._lose = lose

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        answer = await super().swap(kind, key, seen, new)
        while self._lose():
            again = await super().swap(kind, key, seen, new)
            answer = Swapped(again.swapped, again.found, in_doubt=not again.swapped)
        return answer
