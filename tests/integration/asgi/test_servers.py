"""ScopeMiddleware under several servers: how they end, and what a worker that was killed leaves."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.guarded import free_port
from tests.support.uvicorn_server import PATIENCE, WORKERS, UvicornServer, running_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

APP = "tests.integration.asgi.ending:app"
PATIENT = ("--timeout-worker-healthcheck", "60")
NEEDED = {
    "uvicorn": ["uvicorn"],
    "gunicorn": ["gunicorn", "uvicorn_worker"],
    "hypercorn": ["hypercorn"],
    "trio": ["hypercorn"],
}
WORKERS_OF = {"uvicorn": WORKERS, "gunicorn": WORKERS, "hypercorn": 1, "trio": 1}
"""hypercorn kills the workers that are busy as soon as an idle one has ended."""
OF_UVICORN = ("uvicorn", "gunicorn")
"""Servers whose workers get the signal, and wait for requests without a bound."""


def command(server: str, port: int) -> list[str]:
    workers, address = str(WORKERS_OF[server]), f"127.0.0.1:{port}"
    match server:
        case "uvicorn":
            return ["uvicorn", APP, "--port", str(port), "--workers", workers, *PATIENT]
        case "gunicorn":
            worker = "uvicorn_worker.UvicornWorker"
            return ["gunicorn", APP, "-k", worker, "-w", workers, "-b", address]
        case "hypercorn":
            return ["hypercorn", APP, "-w", workers, "-b", address]
        case _:
            return ["hypercorn", APP, "-k", "trio", "-w", workers, "-b", address]


@contextmanager
def running(server: str, tmp_path: Path) -> Iterator[UvicornServer]:
    for module in NEEDED[server]:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    port = free_port()
    environ = {"SERVICE_STORE": f"sqlite:///{tmp_path / 'service.db'}"}
    line, workers = command(server, port), WORKERS_OF[server]
    with running_server(line, port, environ=environ, started="started.", workers=workers) as run:
        yield run


def connect(server: UvicornServer, path: str, *headers: str) -> socket.socket:
    """Send a request, and return the connection."""
    client = socket.create_connection(("127.0.0.1", server.port))
    client.settimeout(PATIENCE)
    client.sendall(
        "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()
    )
    return client


def rest(client: socket.socket) -> str:
    """Return what comes until the server closes the connection."""
    came = b""
    while part := client.recv(65536):
        came += part
    return came.decode()


@pytest.mark.parametrize("name", NEEDED)
def test_a_server_ends_in_time_whatever_its_requests_wait_for(name: str, tmp_path: Path) -> None:
    with (
        running(name, tmp_path) as server,
        connect(server, "/stream") as stream,
        connect(server, "/wait") as waiting,
    ):
        server.wait_for("streaming.")
        server.wait_for("waiting.")
        printed, _ = server.end()
        if name in OF_UVICORN:
            assert "the end" in rest(stream)
            assert "503" in rest(waiting)
            assert printed.index("streamed.") < printed.index("waited.")
    assert printed.count("shut down.") == WORKERS_OF[name], printed
    assert "waited." in printed


@pytest.mark.parametrize("name", OF_UVICORN)
def test_a_websocket_that_nobody_listens_to_does_not_keep_a_server_from_ending(
    name: str, tmp_path: Path
) -> None:
    pytest.importorskip("websockets")
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    with running(name, tmp_path) as server, connect(server, "/", *upgrade, key):
        server.wait_for("pushing.")
        printed, _ = server.end()
    assert "pushed." in printed
    assert printed.count("shut down.") == WORKERS, printed


@pytest.mark.parametrize("name", OF_UVICORN)
def test_the_lock_of_a_worker_that_is_killed_goes_to_another_one(name: str, tmp_path: Path) -> None:
    with running(name, tmp_path) as server, connect(server, "/keep"):
        server.wait_for(" holds.")
        (line,) = (line for line in server.lines if line.endswith(" holds."))
        killed = int(line.split()[0])
        os.kill(killed, signal.SIGKILL)
        status, holder = server.ask("/")
        assert status == 200
        assert holder != killed
        server.wait_for("started.", times=WORKERS + 1)  # in its place
        printed, _ = server.end()
    assert printed.count("shut down.") == WORKERS, printed
