"""The command line in this process, on stores that need no server."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.support.operated import Command, commands, fill


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command, as in a pipe."""
    return commands(capsys, monkeypatch)


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store with one of everything."""
    memory = f"memory://{secrets.token_hex(8)}"
    url = memory if request.param == "memory" else f"sqlite:///{tmp_path / 'app.db'}"
    url += "?key_prefix=app:"
    fill(url)
    return url
