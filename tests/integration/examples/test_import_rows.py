"""The import goes on where it was killed: no row is lost, and few run twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.examples.test_fleet import figure, run_example
from tests.support.shared_stores import SHARED_STORES, shared_store_url

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "import_rows.py"
SMALL = ("import_rows.py", "--kills", "2", "--save-every", "0.02", "--rows")


def numbers(pattern: str, text: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(pattern, text, re.MULTILINE)]


def assert_imported(output: str, rows: int) -> None:
    assert figure(output, "rows done") == f"{rows:,} of {rows:,}"
    assert figure(output, "kills") == "2"
    again, allowed = numbers(r"(\d[\d,]*)", figure(output, "rows run again"))
    assert 0 < again <= allowed
    done = numbers(r"^\[[#-]+\] (\d[\d,]*) of", output)
    assert done == sorted(done)
    assert done[-1] == rows
    assert f"] {rows:,} of {rows:,} (100 %)" in output


@pytest.fixture(params=SHARED_STORES[1:])
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


def test_an_import_that_is_killed_goes_on_where_it_stopped() -> None:
    assert_imported(run_example(*SMALL, "2000"), 2000)


def test_an_import_that_is_killed_goes_on_where_it_stopped_on_a_server(server_url: str) -> None:
    assert_imported(run_example(*SMALL, "600", "--store", server_url), 600)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows must be 1 or more, got 0"),
        (["--kills", "-1"], "--kills must be 0 or more"),
        (["--store", "memory:"], "one that stays"),
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
