"""A service under uvicorn ends on SIGTERM: in time, in order, and with its requests answered."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.support.uvicorn_server import UvicornServer, running_uvicorn

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

GRACE = 8.0


@contextmanager
def running(folder: Path, workers: int, scopes: int) -> Iterator[UvicornServer]:
    environ = {
        "SERVICE_STORE": f"sqlite:///{folder / 'service.db'}",
        "SERVICE_GRACE": str(GRACE),
        "SERVICE_SCOPES": str(scopes),
    }
    app = "tests.integration.services.app:app"
    with running_uvicorn(app, environ=environ, workers=workers) as server:
        server.wait_for("started", times=workers)
        server.wait_for("leads")
        yield server


@pytest.mark.parametrize("scopes", [1, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_the_service_in_time_and_its_requests_are_answered(
    tmp_path: Path, workers: int, scopes: int
) -> None:
    answers: Queue[Any] = Queue()

    def ask() -> None:
        answers.put(server.ask("/slow"))

    with running(tmp_path, workers, scopes) as server:
        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        server.wait_for("request", times=2)
        printed, took = server.end()
        for thread in asking:
            thread.join()
    assert took <= GRACE + 1, printed
    assert [answers.get_nowait() for _ in asking] == [(200, "answered")] * 2
    assert printed.count(" ended") == printed.count("cleaned up") == workers, printed
    assert printed.count("resigned") >= 1
    assert "Traceback" not in printed, printed
    assert "ERROR" not in printed, printed
