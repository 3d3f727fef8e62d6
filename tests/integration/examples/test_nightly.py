"""The example of the nightly job: each tick once, with wrong clocks, and though one is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.examples.test_fleet import figure, run_example

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "nightly.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@pytest.mark.slow
def test_each_tick_runs_once_with_wrong_clocks_and_a_process_killed() -> None:
    told = run_example("nightly.py", "--ticks", "6")
    assert int(figure(told, "ticks")) >= 6
    assert (figure(told, "missed"), figure(told, "started twice")) == ("0", "0")
    assert figure(told, "killed") == "1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ticks", "0"], "--ticks must be 1 or more, got 0"),
        (["--kills", "3"], "--kills must be 0 or more and less than --processes, got 3"),
        (["--every", "0"], "--every must be 0.1 or more, got 0.0"),
        (["--skew", "-1"], "--skew must be 0 or more, got -1.0"),
        (["--store", "nothing://here"], "nothing"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode != 0
    assert message in ran.stderr
