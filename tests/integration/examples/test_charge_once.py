"""Every order is charged once, whichever worker dies, by a service that would charge it twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.examples.test_fleet import figure, run_example
from tests.support.shared_stores import SHARED_STORES, shared_store_url

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "charge_once.py"
SMALL = ("charge_once.py", "--orders", "12", "--workers", "2", "--kills", "1")


def assert_charged_once(output: str) -> None:
    assert figure(output, "charged once") == "12 of 12"
    assert figure(output, "charged twice") == "0"
    assert figure(output, "of these, wrong") == "0"
    assert figure(output, "workers killed") == "1"
    # Each worker was asked for each order, and the one that was killed for some of them.
    assert int(figure(output, "receipts returned")) >= 24


@pytest.fixture(params=SHARED_STORES[1:])
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


def test_every_order_is_charged_once_though_a_worker_is_killed_meanwhile() -> None:
    output = run_example(*SMALL)
    assert_charged_once(output)
    assert figure(output, "decided by hand") == "0"


@pytest.mark.slow
def test_where_nobody_may_repeat_a_run_somebody_decides() -> None:
    output = run_example(*SMALL, "--ask")
    assert_charged_once(output)
    assert int(figure(output, "decided by hand")) >= 1


def test_every_order_is_charged_once_on_a_server(server_url: str) -> None:
    output = run_example(*SMALL, "--store", server_url, "--ask")
    assert_charged_once(output)
    assert int(figure(output, "decided by hand")) >= 1


@pytest.mark.slow
def test_without_once_every_order_is_charged_by_each_worker() -> None:
    output = run_example(
        "charge_once.py", "--orders", "6", "--workers", "2", "--without-once", exit_code=1
    )
    assert figure(output, "charged twice") == "6"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--orders", "0"], "--orders must be between 1 and 400, got 0"),
        (["--workers", "0"], "--workers must be between 1 and 64, got 0"),
        (["--kills", "-1"], "--kills must be 0 or more"),
        (["--store", "memory:"], "shared store"),
        (["--store", "nosuch://x"], "no backend is registered for the scheme 'nosuch'"),
    ],
)
@pytest.mark.slow
def test_it_refuses_what_cannot_work(arguments: list[str], message: str) -> None:
    finished = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
