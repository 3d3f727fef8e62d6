"""The command line in this process, on stores that need no server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from gogoscope.cli.program import run
from tests.support.operated import fill


@frozen
class Finished:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


Command = Callable[..., Finished]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command, as in a pipe."""
    monkeypatch.delenv("GOGOSCOPE_STORE", raising=False)

    def run_command(*arguments: str) -> Finished:
        capsys.readouterr()
        code = run(arguments)
        return Finished(int(code), *capsys.readouterr())

    return run_command


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store with one of everything."""
    memory = f"memory://{secrets.token_hex(8)}"
    url = memory if request.param == "memory" else f"sqlite:///{tmp_path / 'app.db'}"
    url += "?key_prefix=app:"
    fill(url)
    return url
