"""A circuit breaker shared by processes: what one learns, the next one knows at its first call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shared_stores import SHARED_STORES, shared_store_url

WORKER = Path(__file__).parent / "worker.py"


@pytest.fixture(params=SHARED_STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


def process(url: str, what: str, times: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(WORKER), url, what, str(times)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(("what", "error"), [("fail", "OSError"), ("hang", "TimeoutError")])
def test_the_first_task_of_another_process_is_rejected_without_a_call(
    url: str, what: str, error: str
) -> None:
    assert process(url, what, 3) == ["called", error] * 3
    assert process(url, "call", 1) == ["CircuitOpenError"]


def test_failures_of_several_processes_add_up(url: str) -> None:
    assert process(url, "fail", 2) == ["called", "OSError"] * 2
    assert process(url, "fail", 2) == ["called", "OSError", "CircuitOpenError"]
    assert process(url, "call", 1) == ["CircuitOpenError"]


def test_cancelled_calls_are_no_failures(url: str) -> None:
    assert process(url, "cancel", 4) == ["called", "TaskCancelled"] * 4
    assert process(url, "call", 1) == ["called", "NoneType"]
