"""The page about rate limits shows programs that run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import outputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "rate_limits.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE),
)
PRINTED = {
    "calls": r"answer to why\?\n\['small', 'large'\]\nanswer to how\?\n"
    r"a call of that cost may go in \d+ s\n",
    "tokens": r"0\.\d s until all is free again\n",
    "pauses": r"TooManyRequests and all wait: True\nthe next call went after 0\.\d s\n",
}


def test_the_page_shows_what_its_programs_print() -> None:
    shown = outputs(PAGE)
    assert all(re.fullmatch(PRINTED[name], shown[name]) for name in PRINTED)


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
    assert re.fullmatch(PRINTED[name], ran.stdout), ran.stdout
