"""A service under uvicorn ends on SIGTERM: in time, in order, and with its requests answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

GRACE = 3.0
ROOT = Path(__file__).resolve().parents[3]


class Server:
    """A running uvicorn, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.lines: list[str] = []
        self._queue: Queue[str] = Queue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._queue.put(line.rstrip())

    def read_all(self) -> None:
        """Read what is printed until every process has ended."""
        self._reading.join()
        while not self._queue.empty():
            self.lines.append(self._queue.get())

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until a text has been printed so often."""
        deadline = time.monotonic() + 30
        while sum(text in line for line in self.lines) < times:
            try:
                self.lines.append(self._queue.get(timeout=deadline - time.monotonic()))
            except (Empty, ValueError):
                raise AssertionError(f"{text!r} was not printed: {self.lines}") from None

    def end(self, within: float) -> float:
        """Send SIGTERM, and return how many seconds it took the server to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(within + 20)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {[*self._queue.queue]}") from None
        return time.monotonic() - began


@contextmanager
def running(folder: Path, workers: int, scopes: int) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "tests.integration.services.app:app"]
    command += ["--port", str(port), "--workers", str(workers)]
    # A loaded machine takes longer than five seconds to start a worker.
    command += ["--timeout-worker-healthcheck", "60"]
    environ = {
        **os.environ,
        "SERVICE_STORE": f"sqlite:///{folder / 'service.db'}",
        "SERVICE_GRACE": str(GRACE),
        "SERVICE_SCOPES": str(scopes),
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = Server(process, port)
    try:
        server.wait_for("started", times=workers)
        server.wait_for("leads")
        server.wait_for("Application startup complete", times=workers)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        server.read_all()


@pytest.mark.parametrize("scopes", [1, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_the_service_in_time_and_its_requests_are_answered(
    tmp_path: Path, workers: int, scopes: int
) -> None:
    answers: Queue[str] = Queue()

    def ask() -> None:
        url = f"http://127.0.0.1:{server.port}/slow"
        with urllib.request.urlopen(url, timeout=30) as answer:
            answers.put(answer.read().decode())

    with running(tmp_path, workers, scopes) as server:
        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        server.wait_for("request", times=2)
        took = server.end(within=GRACE + 1)
        for thread in asking:
            thread.join()
    printed = "\n".join(server.lines)
    assert took <= GRACE + 1, printed
    assert [answers.get_nowait() for _ in asking] == ["answered"] * 2
    assert printed.count(" ended") == printed.count("cleaned up") == workers, printed
    assert printed.count("resigned") >= 1
    assert "Traceback" not in printed, printed
    assert "ERROR" not in printed, printed
