"""The folder passes the kit, and opens by its URL."""

from __future__ import annotations

from pathlib import Path

import pytest
from gogoscope_folder import FolderStore

from gogoscope import InvalidURLError, PersistenceError, open_persistence
from gogoscope.persistence import Clock, current_clock
from gogoscope.testing.conformance import OpenStore, StoreConformance


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
