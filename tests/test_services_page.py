"""The page about services shows programs that run, and end as it says."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "services.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE),
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")


def test_every_program_of_the_page_is_run_here() -> None:
    assert PAGE.count("```python") == 2
    assert set(FILES) == {"worker", "web"}


def test_the_worker_goes_on_after_an_error_and_ends_on_sigterm(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FILES["worker"]], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        try:
            told = [worker.stdout.readline() for _ in range(3)]
            assert told == ["sent A-0001\n", "not sent: no such customer\n", "sent A-0003\n"]
            worker.send_signal(signal.SIGTERM)
            assert worker.stdout.read() == "stopped\n"
            assert worker.wait(10) == 0
        finally:
            worker.kill()


def test_the_web_service_answers_its_request_and_ends_on_sigterm(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    (tmp_path / "web.py").write_text(FILES["web"], encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "web:app", "--port", str(port)]
    answers: list[str] = []

    def ask() -> None:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/A-1", timeout=20) as answer:
                    answers.append(answer.read().decode())
                    return
            except urllib.error.URLError:
                time.sleep(0.1)

    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            ask()  # it has started
            asking = threading.Thread(target=ask)
            asking.start()
            for _ in range(2):
                while server.stdout.readline() not in ("writing A-1\n", ""):
                    pass
            server.send_signal(signal.SIGTERM)
            printed = server.stdout.read()
            errors = server.stderr.read()
            server.wait(20)
            asking.join()
        finally:
            server.kill()
    assert answers == ["wrote A-1\n"] * 2
    assert "cleaned up" in printed
    assert "Traceback" not in errors, errors
