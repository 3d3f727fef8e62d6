"""The quickstart shows what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "quickstart.py"


def test_quickstart_shows_lock_cache_and_circuit_breaker() -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    output = finished.stdout
    assert "<LockHandle key='resource:123'" in output
    assert "get         {'name': 'John'}" in output
    assert "has         True" in output
    assert "delete      True" in output
    assert "keys        []" in output
    assert "keys user:* ['user:1']" in output
    assert "task        (None, 'data')" in output
    assert "CircuitOpenError" in output
    assert "state       open" in output
