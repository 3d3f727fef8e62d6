"""The page about code without an event loop shows programs that run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import outputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "blocking.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE),
)
USES = {
    "plain": ("", ""),
    "forms": ("", ""),
    "flask_app": (
        "flask",
        """client = app.test_client()
tokens = [client.post('/ship/7').get_json()['token'] for _ in range(2)]
print(tokens[0] < tokens[1])""",
    ),
    "django_view": (
        "django",
        """from django.conf import settings
settings.configure()
print(ship(None, 7).content.decode(), ship(None, 7).content.decode())""",
    ),
    "tasks": ("celery", "print(charge.apply(('7',)).get(), charge.apply(('7',)).get())"),
}
PRINTED = {
    "plain": [
        "held: invoice:42",
        "{'receipt': 7} {'receipt': 7}",
        "parcel",
        "sent",
        "1.08 1.08",
        "asked for a",
        "5 5",
    ],
    "forms": ["True printers"],
    "flask_app": ["True"],
    "django_view": ['{"order": 7} {"order": 7}'],
    "tasks": ["charged 7", "{'receipt': '7'} {'receipt': '7'}"],
}


def test_the_page_shows_what_its_first_program_prints() -> None:
    assert outputs(PAGE)["plain"].splitlines() == PRINTED["plain"]


def test_every_program_of_the_page_is_run_here() -> None:
    assert PAGE.count("```python") == len(FILES)
    assert set(FILES) == set(USES) == set(PRINTED)


@pytest.mark.parametrize("name", USES)
def test_a_program_prints_what_the_page_says(tmp_path: Path, name: str) -> None:
    library, use = USES[name]
    if library:
        pytest.importorskip(library)
    program = tmp_path / f"{name}.py"
    program.write_text(f"{FILES[name]}\n{use}\n", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == PRINTED[name]
