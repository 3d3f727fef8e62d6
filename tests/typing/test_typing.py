"""What type checkers say of right and wrong uses of the public API."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy_errors(path: Path) -> set[int]:
    pytest.importorskip("mypy", reason="the checkers come with the extra 'dev'")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--no-error-summary"]
    found = subprocess.run(
        [*command, str(path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode in (0, 1), found.stdout + found.stderr
    pattern = rf"^{re.escape(str(path.relative_to(ROOT)))}:(\d+): error"
    return {int(line) for line in re.findall(pattern, found.stdout, re.MULTILINE)}


def pyright_errors(path: Path) -> set[int]:
    pytest.importorskip("pyright", reason="the checkers come with the extra 'dev'")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    with tempfile.TemporaryDirectory() as folder:  # where no configuration excludes wrong uses
        copied = shutil.copy(path, folder)
        found = subprocess.run(
            [*command, copied], cwd=folder, capture_output=True, text=True, check=False, timeout=300
        )
    report = json.loads(found.stdout[found.stdout.index("{") :])
    return {
        problem["range"]["start"]["line"] + 1
        for problem in report["generalDiagnostics"]
        if problem["severity"] == "error"
    }


CHECKERS = [pytest.param(mypy_errors, id="mypy"), pytest.param(pyright_errors, id="pyright")]


@pytest.mark.parametrize("errors", CHECKERS)
def test_right_uses_have_the_right_types(errors: object) -> None:
    assert callable(errors)
    assert errors(HERE / "api.py") == set()


@pytest.mark.parametrize("errors", CHECKERS)
def test_every_wrong_use_is_an_error_and_nothing_else_is(errors: object) -> None:
    assert callable(errors)
    path = HERE / "misuse.py"
    lines = path.read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert len(marked) > 15
    assert errors(path) == marked
