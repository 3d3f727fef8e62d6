"""What the kit needs of pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LOOKS_AT_THE_KIT = """
import ast, sys
from pathlib import Path
from gogoscope.testing import conformance

def test_every_assert_is_rewritten():
    folder = Path(conformance.__file__).parent
    modules = {
        ".".join([conformance.__name__, *path.relative_to(folder).with_suffix("").parts])
        for path in folder.rglob("*.py")
        if path.name != "worker.py"  # it runs in processes without pytest
        and any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert len(modules) > 10
    assert {name for name in modules if "@pytest_ar" not in vars(sys.modules[name])} == set()
"""


def test_an_assert_of_the_kit_that_fails_shows_its_values(tmp_path: Path) -> None:
    test = tmp_path / "test_kit.py"
    test.write_text(LOOKS_AT_THE_KIT)
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        # Or pytest would rewrite all of an installed package that brings a plugin.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stdout
