"""A store that is down, or says nothing: the program ends in time, with one clear line."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.cli.in_terminal import CREDENTIALS, PROGRAM, environment, piped, terminal
from tests.support.guarded import free_port
from tests.support.operated import Command
from tests.support.redis_server import running_redis

URLS = {
    "redis": "redis://localhost:{port}/0?request_timeout=0.3",
    "postgresql": "postgresql://me:secret@127.0.0.1:{port}/app?request_timeout=0.3",
    "dynamodb": "dynamodb://app?request_timeout=0.3&endpoint_url=http://127.0.0.1:{port}",
}
COMMANDS = [("get", "k"), ("release", "k", "--yes"), ("circuits", "--watch"), ("doctor",)]

pytestmark = pytest.mark.slow


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener on a port behind which everybody is heard, and nobody is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.settimeout(60)
        yield listener


@pytest.fixture
def silent_port(silent: socket.socket) -> int:
    port: int = silent.getsockname()[1]
    return port


def check(code: int, out: str, err: str) -> None:
    assert code == 3, err
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("gogoscope: ")
    assert "secret" not in line


@pytest.mark.parametrize("store", URLS)
def test_a_store_that_is_down(store: str) -> None:
    finished = piped("locks", "--store", URLS[store].format(port=free_port()), **CREDENTIALS)
    check(finished.returncode, finished.stdout, finished.stderr)


@pytest.mark.parametrize("store", URLS)
def test_a_store_that_says_nothing(store: str, silent_port: int) -> None:
    finished = piped("locks", "--store", URLS[store].format(port=silent_port), **CREDENTIALS)
    check(finished.returncode, finished.stdout, finished.stderr)


@pytest.mark.parametrize("store", URLS)
def test_a_store_that_is_down_for_the_other_commands(
    store: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    url = URLS[store].format(port=free_port())
    for arguments in COMMANDS:
        finished = command(*arguments, "--store", url)
        check(finished.code, finished.out, finished.err)


def test_ctrl_c_ends_the_wait_for_a_store_that_says_nothing(
    silent: socket.socket, silent_port: int
) -> None:
    url = f"redis://127.0.0.1:{silent_port}/0?request_timeout=100"
    command = [*PROGRAM, "locks", "--store", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as waiting:
        assert waiting.stderr is not None
        try:
            connected, _ = silent.accept()
            with connected, pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.5)
            waiting.send_signal(2)
            assert waiting.wait(60) == 130
            assert waiting.stderr.read() == ""
        finally:
            waiting.kill()


@pytest.mark.engine
def test_what_is_watched_goes_on_when_the_store_is_there_again() -> None:
    with running_redis("--appendonly", "yes") as server:
        url = f"{server.url}?request_timeout=0.3"
        with terminal("locks", "--watch", "--every", "0.1", "--store", url) as shown:
            shown.wait_for("no locks")
            server.kill()
            shown.wait_for("no answer: ")
            seen = len(shown.shown)
            server.start()
            shown.wait_for("no locks", behind=seen)
            shown.type("\x03")
            assert shown.end() == 130
        assert "Traceback" not in shown.shown
