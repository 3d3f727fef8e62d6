"""What a SQLite file and its disk are found to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from gogoscope.stores import SQLiteStore
from gogoscope.stores.sqlite import examination

pytestmark = pytest.mark.anyio


async def examined(path: Path) -> dict[str, str]:
    async with SQLiteStore(path) as store:
        await store.set("k", 1)
        return {one.check: one.state for one in await store.examine()}


async def test_a_file_of_ones_own_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "LEAST_FREE", 0)
    assert set((await examined(tmp_path / "app.db")).values()) == {"fine"}


async def test_a_disk_that_is_nearly_full_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "LEAST_FREE", 10**18)
    assert (await examined(tmp_path / "app.db"))["disk"] == "wrong"


async def test_a_log_that_cannot_shrink_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "LARGE_LOG", 1)
    assert (await examined(tmp_path / "app.db"))["journal"] == "wrong"


async def test_keys_of_every_prefix_are_sampled(tmp_path: Path) -> None:
    async with (
        SQLiteStore(tmp_path / "app.db", key_prefix="a:") as one,
        SQLiteStore(tmp_path / "app.db", key_prefix="b:") as other,
    ):
        await one.set_many({"k": 1, "l": 2})
        await other.acquire("k", 60)
        sampled = await one.sample_keys(10)
        assert (sampled["cache"], sampled["lock"]) == (["a:k", "a:l"], ["b:k"])
        assert len((await one.sample_keys(1))["cache"]) == 1
