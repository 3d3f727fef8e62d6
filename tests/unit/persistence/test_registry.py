"""From a URL to an open store: exactly the backend that is meant, or an error that says why not."""

from __future__ import annotations

import builtins
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gogoscope.exceptions import (
    AmbiguousBackendError,
    BackendUnavailableError,
    InvalidURLError,
    UnknownBackendError,
)
from gogoscope.persistence import PersistenceURL, open_persistence, registry
from gogoscope.persistence.registry import find_opener
from gogoscope.stores.memory import MemoryStore
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope.testing import VirtualClock

RECORDING_BACKEND = """
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def from_url(url):
        yield url
"""


class Site:
    """A folder on the import path to which distributions can be added."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, distribution: str, entry_points: str, **modules: str) -> None:
        info = self._folder / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[gogoscope.persistence]\n{entry_points}\n")
        for name, source in modules.items():
            (self._folder / f"{name}.py").write_text(textwrap.dedent(source))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Site(folder)


def test_an_unknown_scheme_is_refused_with_those_installed(site: Site) -> None:
    site.add("mine", "mine = mine:from_url")
    with pytest.raises(UnknownBackendError) as caught:
        find_opener(PersistenceURL.parse("nosuch://host"))
    message = str(caught.value)
    assert "'nosuch'" in message
    listing = message.partition("installed are: ")[2].split(", ")
    assert listing == sorted(listing)
    assert {"dynamodb", "memory", "mine", "redis", "sqlite"} <= set(listing)


def test_two_distributions_that_claim_a_scheme_are_both_named(site: Site) -> None:
    site.add("one", "mine = one:from_url")
    site.add("two", "mine = two:from_url")
    with pytest.raises(AmbiguousBackendError) as caught:
        find_opener(PersistenceURL.parse("mine:"))
    assert "one (one:from_url) and two (two:from_url)" in str(caught.value)


def test_the_projects_own_schemes_can_be_claimed_no_more_silently(site: Site) -> None:
    site.add("other", "memory = other:from_url")
    with pytest.raises(AmbiguousBackendError, match=r"gogoscope .* and other \(other:from_url\)"):
        find_opener(PersistenceURL.parse("memory:"))


def test_the_same_value_from_two_distributions_is_no_conflict(site: Site) -> None:
    site.add("one", "mine = mine_twice:from_url", mine_twice=RECORDING_BACKEND)
    site.add("two", "mine = mine_twice:from_url")
    assert find_opener(PersistenceURL.parse("mine:")).__name__ == "from_url"


def test_only_the_matching_entry_point_is_loaded(site: Site) -> None:
    site.add("broken", "broken = broken_backend:from_url", broken_backend="raise SystemExit(1)")
    find_opener(PersistenceURL.parse("memory:"))
    assert "broken_backend" not in sys.modules


def test_a_backend_that_cannot_be_imported_says_what_is_missing(site: Site) -> None:
    site.add("needy", "needy = needy_backend:from_url", needy_backend="import no_such_package")
    with pytest.raises(BackendUnavailableError, match="no_such_package") as caught:
        find_opener(PersistenceURL.parse("needy:"))
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.anyio
async def test_a_backend_is_imported_beside_the_event_loop(site: Site) -> None:
    came_here: list[int] = []
    builtins.came_here = came_here  # type: ignore[attr-defined]
    slow = """
    import builtins, threading

    builtins.came_here.append(threading.get_ident())
    """
    site.add("slow", "slow = slow_backend:from_url", slow_backend=slow + RECORDING_BACKEND)
    sys.modules.pop("slow_backend", None)
    registry._imported.discard("slow")
    try:
        for _ in range(2):
            async with open_persistence("slow:"):
                pass
    finally:
        del builtins.came_here  # type: ignore[attr-defined]
    assert len(came_here) == 1
    assert came_here[0] != threading.get_ident()


@pytest.mark.anyio
async def test_a_store_can_be_opened_while_all_worker_threads_are_busy(site: Site) -> None:
    site.add("mine", "mine = mine_late:from_url", mine_late=RECORDING_BACKEND)
    registry._imported.discard("mine")
    limiter = anyio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        await limiter.acquire_on_behalf_of(holder)
    try:
        with anyio.fail_after(20):
            async with open_persistence("mine:"):
                pass
    finally:
        for holder in holders:
            limiter.release_on_behalf_of(holder)


def test_in_virtual_time_no_time_passes_while_a_backend_is_imported(site: Site) -> None:
    site.add("mine", "mine = mine_virtual:from_url", mine_virtual=RECORDING_BACKEND)
    registry._imported.discard("mine")

    async def main() -> None:
        with anyio.fail_after(0.001):
            async with open_persistence("mine:"):
                pass

    VirtualClock().run(main)


@pytest.mark.anyio
async def test_a_backend_of_anybodys_is_opened_with_its_url(site: Site) -> None:
    site.add("mine", "mine = mine_backend:from_url", mine_backend=RECORDING_BACKEND)
    async with open_persistence("mine://Place?size=3") as store:
        opened: object = store
        assert opened == PersistenceURL("mine://Place?size=3", "mine", "Place", {"size": "3"})


@pytest.mark.anyio
async def test_the_projects_own_backends_come_through_entry_points_too(tmp_path: Path) -> None:
    async with open_persistence("memory:") as store:
        assert isinstance(store, MemoryStore)
    async with open_persistence(f"sqlite:///{tmp_path}/a.db") as store:
        assert isinstance(store, SQLiteStore)


@pytest.mark.anyio
async def test_a_url_of_another_type_is_refused() -> None:
    not_a_url: Any = MemoryStore()
    with pytest.raises(TypeError, match="url must be a str, got <MemoryStore"):
        async with open_persistence(not_a_url):
            pytest.fail("it opened")


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["memory:?ttl=1", "sqlite:///a.db?ttl=1", "dynamodb://table?ttl=1"])
async def test_every_backend_refuses_an_unknown_option_and_knows_key_prefix(url: str) -> None:
    with pytest.raises(InvalidURLError, match=r"unknown option 'ttl'.*key_prefix"):
        async with open_persistence(url):
            pytest.fail("it opened")


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["memory:", "sqlite:///a.db", "dynamodb://table"])
async def test_every_backend_refuses_a_prefix_without_separator(url: str) -> None:
    with pytest.raises(InvalidURLError, match="key_prefix must end with"):
        async with open_persistence(f"{url}?key_prefix=app"):
            pytest.fail("it opened")
