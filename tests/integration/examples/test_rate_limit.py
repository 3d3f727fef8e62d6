"""The example of rate limits: nobody calls too often, and one 429 slows all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "rate_limit.py"
WORKERS = 16
RATE = 40


@pytest.mark.slow
def test_four_processes_never_call_too_often_and_one_429_slows_all() -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    *bars, calls, paused = finished.stdout.splitlines()
    assert sum("Retry-After: 2" in bar for bar in bars) == 1
    assert re.fullmatch(r"\d+ calls, 0 of them too many", calls)
    second = re.fullmatch(r"(\d+) calls in the second second of the pause, (\d+) after it", paused)
    assert second is not None
    # Without a pause it would be the rate; a call of each worker may be late.
    assert int(second[1]) <= WORKERS < RATE
    assert int(second[2]) > 0
