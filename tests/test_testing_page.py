"""The page about testing shows tests that pass."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "testing.md").read_text(encoding="utf-8")
FILE = re.compile(r"^```python\n# test_(\w+)\.py\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES = dict(FILE.findall(PAGE))

INI = """
[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""


def test_every_program_of_the_page_is_a_test_file() -> None:
    assert len(FILES) == PAGE.count("```python") == 5


def test_the_tests_on_the_page_pass(pytester: pytest.Pytester) -> None:
    """Those of anyio's plugin run on asyncio and on trio."""
    ini, files, count = INI, dict(FILES), 13
    if find_spec("pytest_asyncio") is None:
        ini = INI.replace("asyncio_default_fixture_loop_scope = function", "")
        del files["payments"]
        count -= 1
    pytester.makeini(ini)
    pytester.makepyfile(**{f"test_{name}": text for name, text in files.items()})
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=120)
    result.assert_outcomes(passed=count)
