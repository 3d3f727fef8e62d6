"""Servers for the tests: an application of ours under their workers, with what they print."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from attrs import define, field

from tests.support.guarded import free_port

WORKERS = 2
PATIENCE = 60.0
ROOT = Path(__file__).resolve().parents[2]


@define
class UvicornServer:
    """A running uvicorn, and what it has printed so far."""

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

    def wait_until_it_listens(self) -> None:
        """Wait until a worker accepts connections, which it does after its startup."""
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < give_up, self.lines
                time.sleep(0.02)
            else:
                return

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Any]:
        """Send a request on a connection of its own; return the status, and what the answer says.

        :param headers: their names with underscores instead of hyphens
        """
        url = f"http://127.0.0.1:{self.port}{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, headers=named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, _said(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _said(error.read())

    def end(self) -> tuple[str, float]:
        """Send SIGTERM; return all that was printed, and how many seconds it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.lines} {[*self.coming.queue]}") from None
        took = time.monotonic() - began
        while (line := self.coming.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return "\n".join(self.lines), took


def _said(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode().strip()


@contextmanager
def running_uvicorn(
    app: str, *options: str, environ: Mapping[str, str], workers: int = WORKERS
) -> Iterator[UvicornServer]:
    """Run an application until the end of the block, and wait until every worker has started.

    :param app: where it is, such as ``"package.module:app"``
    :param options: of uvicorn's command line
    :param environ: what is added to the environment
    """
    port = free_port()
    command = ["uvicorn", app, *options, "--port", str(port), "--workers", str(workers)]
    # A loaded machine takes longer than five seconds to start a worker.
    command += ["--timeout-worker-healthcheck", "60"]
    started = "Application startup complete"
    with running_server(command, port, environ=environ, started=started, workers=workers) as server:
        yield server


@contextmanager
def running_server(
    command: list[str], port: int, *, environ: Mapping[str, str], started: str, workers: int
) -> Iterator[UvicornServer]:
    """Run a server until the end of the block, and wait until every worker has started.

    :param command: its module, and the arguments
    :param environ: what is added to the environment
    :param started: what every worker prints
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = UvicornServer(process, port)
    reader = Thread(target=server.listen)
    reader.start()
    try:
        server.wait_for(started, times=workers)
        server.wait_until_it_listens()
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
