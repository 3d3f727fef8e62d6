"""Clients on a store in memory and on a file, for threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gogoscope.blocking import Client, connect


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store."""
    if request.param == "memory":
        return f"memory://{tmp_path.name}-{id(request)}"
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def db(url: str) -> Iterator[Client]:
    """Return a client."""
    with connect(url, name="shop") as client:
        yield client
