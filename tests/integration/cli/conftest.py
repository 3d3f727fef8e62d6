"""The command line in this process, on stores that processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.operated import Command, commands
from tests.support.shared_stores import SHARED_STORES, shared_store_url


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command, as in a pipe."""
    return commands(capsys, monkeypatch)


@pytest.fixture(params=SHARED_STORES)
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    return shared_store_url(request, tmp_path)
