"""Ten processes with wrong clocks share a schedule, and half of them are killed at their work.

How long it takes is set by ``GOGOSCOPE_TEST_TICKS``: 200 ticks are the whole proof, of four minutes
or so on each store.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.examples.test_fleet import figure
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL"),
]

TICKS = int(os.environ.get("GOGOSCOPE_TEST_TICKS", "8"))
NIGHTLY = Path(__file__).resolve().parents[3] / "examples" / "nightly.py"
FLEET = ("--processes", "10", "--kills", "5", "--skew", "1.5")


@pytest.fixture(params=SHARED_STORES)
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


def test_no_tick_is_missed_or_started_twice_unless_its_process_dies(shared_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(NIGHTLY), *FLEET, "--ticks", str(TICKS), "--store", shared_url],
        capture_output=True,
        text=True,
        timeout=240 + 5 * TICKS,
        check=False,
    )
    told = ran.stdout
    print(told)
    assert ran.returncode == 0, told + ran.stderr
    assert int(figure(told, "ticks")) >= TICKS
    assert figure(told, "missed") == "0"
    assert figure(told, "started twice") == "0"
    assert figure(told, "killed") == "5"
