"""The page about schedules shows programs that run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import outputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "schedules.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE),
)
PRINTED = {
    "reports": {"report of a whole second: True"},
    "billing": {"invoices of 03:00, missed 0, attempt 1", "waiting done"},
}


def test_the_page_shows_what_its_programs_print() -> None:
    assert {name: set(text.splitlines()) for name, text in outputs(PAGE).items()} == PRINTED


def test_every_program_of_the_page_is_run_here() -> None:
    assert PAGE.count("```python") == len(PRINTED)
    assert set(FILES) == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_a_program_prints_what_it_should(tmp_path: Path, name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FILES[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.splitlines()) == PRINTED[name]
