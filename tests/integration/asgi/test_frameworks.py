"""ScopeMiddleware under uvicorn with two workers, around applications of four frameworks."""

from __future__ import annotations

import socket
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.integration.asgi.apps import NAMES
from tests.support.uvicorn_server import WORKERS, UvicornServer, running_uvicorn

pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]


def running(framework: str, store: str) -> AbstractContextManager[UvicornServer]:
    environ = {"SERVICE_STORE": store, "SERVICE_FRAMEWORK": framework}
    return running_uvicorn("tests.integration.asgi.apps:app", "--factory", environ=environ)


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
        assert server.ask("/wait", x_request_timeout="1") == (
            504,
            "the time for this request is over",
        )
        server.wait_for("cancelled")
        assert server.ask("/", x_request_timeout="soon")[0] == 400
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.wait_for("waiting", times=2)
        server.wait_for("cancelled", times=2)  # as soon as the client has disconnected
        printed, _ = server.end()
    assert "Traceback" not in printed, printed
    assert "ERROR" not in printed, printed
    assert printed.count("Application shutdown complete") == WORKERS, printed
    if framework == "starlette":
        assert printed.count("cleaned up") == WORKERS
