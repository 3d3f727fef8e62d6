"""ScopeMiddleware under uvicorn with two workers, around applications of four frameworks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest
from attrs import define, field

from tests.integration.asgi.apps import NAMES

pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

WORKERS = 2
PATIENCE = 60.0
ROOT = Path(__file__).resolve().parents[3]


@define
class Server:
    """A running uvicorn."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str] = field(factory=list)
    coming: Queue[str | None] = field(factory=Queue)

    def listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.coming.put(line.rstrip())
        self.coming.put(None)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until a text has been printed so often."""
        while sum(text in line for line in self.lines) < times:
            try:
                line = self.coming.get(timeout=PATIENCE)
            except Empty:
                line = None
            assert line is not None, (text, self.lines)
            self.lines.append(line)

    def ask(self, path: str, **headers: str) -> tuple[int, Any]:
        """Return the status of an answer, and what it says."""
        url = f"http://127.0.0.1:{self.port}{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode().strip()

    def end(self) -> str:
        """Send SIGTERM; return what was printed until every process had ended."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        while (line := self.coming.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return "\n".join(self.lines)


@contextmanager
def running(framework: str, store: str) -> Iterator[Server]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--factory", "--port", str(port), "--workers", str(WORKERS)]
    # A loaded machine takes longer than five seconds to start a worker.
    options += ["--timeout-worker-healthcheck", "60"]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "tests.integration.asgi.apps:app", *options],
        cwd=ROOT,
        env={**os.environ, "SERVICE_STORE": store, "SERVICE_FRAMEWORK": framework},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = Server(process, port)
    reader = Thread(target=server.listen)
    reader.start()
    try:
        server.wait_for("Application startup complete", times=WORKERS)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()


@pytest.mark.parametrize("framework", NAMES)
def test_a_service_of_any_framework_has_a_store_scopes_deadlines_and_a_clean_end(
    framework: str, tmp_path: Path
) -> None:
    pytest.importorskip(framework)
    with running(framework, f"sqlite:///{tmp_path / 'service.db'}") as server:
        status, seen = server.ask("/")
        assert (status, seen["scope"], seen["service"]) == (200, "shop request", "shop")
        assert (seen["error"], seen["number"], seen["headers"]) == ("None", 42, {})
        status, seen = server.ask("/", x_request_timeout="30")
        assert 0 < float(seen["headers"]["x-request-timeout"]) <= 30
        assert server.ask("/wait", x_request_timeout="0.2") == (
            504,
            "the time for this request is over",
        )
        # Django runs its views in tasks of its own, which only Django can cancel.
        cancelled = 0 if framework == "django" else 1
        server.wait_for("cancelled", times=cancelled)
        assert server.ask("/", x_request_timeout="soon")[0] == 400
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.wait_for("waiting", times=2)
        server.wait_for("cancelled", times=cancelled + 1)  # as soon as the client has disconnected
        printed = server.end()
    assert "Traceback" not in printed, printed
    assert "ERROR" not in printed, printed
    assert printed.count("Application shutdown complete") == WORKERS, printed
    if framework == "starlette":
        assert printed.count("cleaned up") == WORKERS
