"""The page about FastAPI shows a service that runs, and keeps its deadlines."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "pages" / "fastapi.md"
TEXT = PAGE.read_text(encoding="utf-8")
((NAME, PROGRAM),) = re.findall(
    r"^```python\n# (\w+)\.py\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]
PATIENCE = 60.0


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Return the status of an answer and what it says; wait until the server listens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=named)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except urllib.error.URLError:
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.1)


def test_the_service_runs_as_the_page_says(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    (tmp_path / f"{NAME}.py").write_text(PROGRAM, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"{NAME}:app", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            status, told = ask(port, "/orders/7/payment", "POST")
            assert (status, told) == (200, {"receipt": "R-7", "told": ["x-request-timeout"]})
            status, _ = ask(port, "/slow", x_request_timeout="0.2")
            assert status == 504
            status, _ = ask(port, "/slow", x_request_timeout="soon")
            assert status == 400
            server.send_signal(signal.SIGTERM)
            printed, _ = server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
    assert "sent mail about 7" in printed, printed
    assert "cleaned up" in printed
    assert "Traceback" not in printed
