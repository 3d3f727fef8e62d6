"""The page about Lambda shows a program that does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "lambda.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE),
)

INVOKED = """
from sqs import handler

def batch(*messages):
    return {"Records": [{"messageId": name, "body": body} for name, body in messages]}

print(handler(batch(("1", "A-1"), ("2", "broken")), None))
print(handler(batch(("2", "broken"), ("1", "A-1"), ("3", "A-3")), None))
"""


def test_every_program_of_the_page_is_run_here() -> None:
    assert PAGE.count("```python") == len(FILES)
    assert set(FILES) == {"sqs"}


def test_a_message_is_handled_once_and_a_failed_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "sqs.py").write_text(FILES["sqs"], encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", INVOKED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, ran.stderr
    failed = "{'batchItemFailures': [{'itemIdentifier': '2'}]}"
    assert ran.stdout.splitlines() == ["shipped A-1", failed, "shipped A-3", failed]
