"""Redis for the tests: a server that is named, or one that is started for the run.

``GOGOSCOPE_TEST_REDIS_URL`` names one, such as ``redis://localhost:6379/9``. Otherwise
``redis-server`` is started on a free port, in an empty folder that it keeps nothing in. Tests that
stop, kill or replace a server start one of their own with :func:`running_redis`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from attrs import define, field

from tests.support.guarded import GUARD, end_guarded, free_port

START_SECONDS = 30.0

REDIS = pytest.param("redis", marks=pytest.mark.engine)
"""The parameter of a test that asks for a fixture of this module only when it runs."""

HOW_TO_GET_ONE = (
    "there is no Redis: install it with 'apt-get install redis-server', or set "
    "GOGOSCOPE_TEST_REDIS_URL to the URL of a server whose data may be lost"
)


@define
class RedisServer:
    """A server of a test's own, which can be stopped, killed, and started again."""

    port: int
    folder: Path
    arguments: tuple[str, ...]
    log: IO[bytes]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [*GUARD, *self._command()],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        give_up = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < give_up:
            if self.send("PING").startswith(("+PONG", "-NOAUTH")):
                return
            time.sleep(0.02)
        end_guarded(self.process)
        self.log.seek(0)
        pytest.fail(f"Redis did not start: {self.log.read().decode()[-2000:]}", pytrace=False)

    def _command(self) -> list[str]:
        redis_server = shutil.which("redis-server")
        assert redis_server is not None, HOW_TO_GET_ONE
        where = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder))
        return [redis_server, *where, *self.arguments]

    def send(self, *command: str) -> str:
        """Send a command on a connection of its own; return the first line of its answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(" ".join(command).encode() + b"\r\n")
                return connection.makefile("rb").readline().decode().strip()
        except OSError:
            return ""

    def kill(self) -> None:
        """Kill it, as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it end in order, and save what it is told to save."""
        self._end(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send the server a signal, such as ``SIGSTOP``."""
        os.kill(self.pid, number)

    def resume(self, pid: int) -> None:
        """Continue the server's process after ``SIGSTOP``, when it cannot tell its id."""
        os.kill(pid, signal.SIGCONT)

    def info(self, section: str) -> str:
        """Return a section of what the server tells of itself."""
        return self.text(f"INFO {section}")

    def cluster_info(self) -> str:
        """Return what the server tells of its cluster."""
        return self.text("CLUSTER INFO")

    def text(self, command: str) -> str:
        """Send a command on a connection of its own; return the text that it is answered with."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            answer = connection.makefile("rb")
            size = int(answer.readline()[1:])
            return answer.read(size).decode()

    @property
    def pid(self) -> int:
        """The server's process."""
        lines = self.info("server").splitlines()
        return next(int(line.partition(":")[2]) for line in lines if "process_id:" in line)

    def _end(self, number: int) -> None:
        assert self.process is not None
        self.signal(number)
        self.process.wait(START_SECONDS)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None


@contextmanager
def running_redis(*arguments: str, persistent: bool = False) -> Iterator[RedisServer]:
    """Start a server, and end it with the block.

    :param arguments: more of its arguments, such as ``--maxmemory 10mb``
    :param persistent: whether what was written outlives the server; every write is on disk then
        before it is answered
    """
    if shutil.which("redis-server") is None:
        _do_without()
    keeping = ("--appendonly", "yes", "--appendfsync", "always") if persistent else ()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        server = RedisServer(free_port(), Path(folder), ("--save", "", *keeping, *arguments), log)
        server.start()
        try:
            yield server
        finally:
            if server.process is not None:
                end_guarded(server.process)


def _do_without() -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI needs every engine: {HOW_TO_GET_ONE}", pytrace=False)
    pytest.skip(HOW_TO_GET_ONE)


@contextmanager
def redis_for_the_run(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Find or start a server, and end it with the block if it was started; return its URL."""
    if url := environ.get("GOGOSCOPE_TEST_REDIS_URL"):
        yield url
        return
    with running_redis() as server:
        yield server.url


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server."""
    for item in items:
        if "redis_engine" in getattr(item, "fixturenames", ()):
            item.add_marker("engine")


@pytest.fixture(scope="session")
def redis_engine() -> Iterator[str]:
    """The URL of a running Redis."""
    with redis_for_the_run() as url:
        yield url


@pytest.fixture
def redis_url(on_asyncio: None, redis_engine: str) -> str:
    """A persistence URL with a key prefix of the test's own."""
    return f"{redis_engine}?key_prefix={secrets.token_hex(8)}:"
