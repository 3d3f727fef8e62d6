"""The example of a circuit breaker without a scope shows what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "breaker.py"


def test_the_example_trips_probes_and_is_set_by_hand() -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    lines = [line.strip() for line in finished.stdout.splitlines()]
    changes = [line for line in lines if "->" in line]
    assert changes == [
        "stock: closed -> open",
        "stock: open -> half-open",
        "stock: half-open -> closed",
        "search: closed -> open",
        "prices: closed -> open",
        "stock: closed -> forced-open",
        "stock: forced-open -> closed",
        "prices: open -> closed",
    ]
    assert "rejected uncalled: stock" in lines
    assert "forced open: rejected" in lines
    assert lines.count("price: 503") == 2
    assert "search   open         failures 2, changed" in lines
