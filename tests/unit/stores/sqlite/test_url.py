"""Which file a URL or a path names, and which it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gogoscope.exceptions import InvalidURLError
from gogoscope.persistence import PersistenceURL
from gogoscope.stores.sqlite.store import SQLiteStore, from_url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///app.db", "app.db"),
        ("sqlite:///data/App%20One.db", "data/App One.db"),
        ("sqlite:////var/lib/app.db", "/var/lib/app.db"),
        ("SQLite:///app.db", "app.db"),
        ("sqlite:///C:/data/app.db", "C:/data/app.db"),
        ("sqlite:///app.db?key_prefix=a:&busy_timeout=0&max_clock_skew=0.5", "app.db"),
    ],
)
def test_three_slashes_are_relative_and_four_absolute(url: str, path: str) -> None:
    assert repr(path) in repr(from_url(PersistenceURL.parse(url)))


@pytest.mark.parametrize(
    "url", ["sqlite:", "sqlite://", "sqlite:app.db", "sqlite:/app.db", "sqlite://app.db"]
)
def test_another_number_of_slashes_is_refused_with_the_right_forms(url: str) -> None:
    with pytest.raises(InvalidURLError, match=r"sqlite:///relative\.db or sqlite:////absolute\.db"):
        from_url(PersistenceURL.parse(url))


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:", "sqlite:///?key_prefix=a:"])
def test_no_file_or_memory_is_refused_with_a_pointer_to_memory_urls(url: str) -> None:
    with pytest.raises(InvalidURLError, match="for a store in memory use 'memory:'"):
        from_url(PersistenceURL.parse(url))


@pytest.mark.parametrize(
    "option",
    [
        "busy_timeout=-1",
        "busy_timeout=nan",
        "busy_timeout=soon",
        "max_clock_skew=-1",
        "max_clock_skew=1e306",
    ],
)
def test_a_bad_option_is_refused(option: str) -> None:
    with pytest.raises(InvalidURLError, match=option.partition("=")[0]):
        from_url(PersistenceURL.parse(f"sqlite:///app.db?{option}"))


@pytest.mark.parametrize("path", ["", ":memory:", "a\0b"])
def test_a_path_must_name_a_file(path: str) -> None:
    with pytest.raises(ValueError, match="path must name a file"):
        SQLiteStore(path)


@pytest.mark.parametrize("path", [7, None, b"app.db"])
def test_a_path_of_another_type_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match="path"):
        SQLiteStore(path)


def test_making_a_store_touches_no_file(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "app.db")
    assert list(tmp_path.iterdir()) == []
