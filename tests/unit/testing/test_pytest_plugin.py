"""The pytest plugin costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys


def test_the_pytest_plugin_imports_nothing_of_the_aids_until_they_are_used() -> None:
    code = (
        "import sys, gogoscope.testing.pytest_plugin as plugin;"
        "print([name for name in ('asyncio', 'trio', 'gogoscope.testing.virtual_clock')"
        " if name in sys.modules])"
    )
    code = code.replace("import sys, ", "import pytest, sys; before = set(sys.modules); import ")
    code = code.replace("if name in sys.modules", "if name in set(sys.modules) - before")
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
