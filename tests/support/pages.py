"""What a page shows: its blocks of code, and how a program of it is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ROOT / "docs" / "pages"


def read_page(name: str) -> str:
    """Return the text of a page of the documentation."""
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of code of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def outputs(page: str) -> dict[str, str]:
    """Return what a page says that its programs print, by their names: the text directly below."""
    shown = re.compile(r"# (\w+)\.py\n(?:(?!```).*\n)*```\n\n```text\n((?:(?!```).*\n)*)```")
    found = (shown.match(program) for program in page.split("\n```python\n")[1:])
    return {match[1]: match[2] for match in found if match is not None}


def run_program(program: str, folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Run a program in a folder and return what it printed."""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
