"""The page about jobs shows programs that run, and go on where they stopped."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

from gogoscope import JobProgress, Scope
from gogoscope.events import JobSaved
from tests.support.pages import outputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "jobs.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE),
)


def run(name: str, folder: Path, **changes: str) -> list[str]:
    program = FILES[name]
    for old, new in changes.items():
        assert old in program
        program = program.replace(old, new)
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


SHOWN = {name: text.splitlines() for name, text in outputs(PAGE).items()}


def test_every_program_of_the_page_is_run_here() -> None:
    assert PAGE.count("```python") == 3
    assert set(FILES) == {"reindex", "rows", "watched"}


def test_a_job_goes_on_from_its_last_state_and_finishes_once(tmp_path: Path) -> None:
    lines = run("reindex", tmp_path)
    assert lines == SHOWN["reindex"]
    assert [line for line in lines if "of" in line] == [
        "####------ 2 of 5",
        "########-- 4 of 5",
        "########## 5 of 5",
    ]
    assert lines[-1] == "finished"
    assert run("reindex", tmp_path) == ["finished before"]


def test_the_loop_yields_what_is_not_done_and_later_what_had_failed(tmp_path: Path) -> None:
    *rows, progress = run("rows", tmp_path)
    assert sorted(rows) == ["ROW 0", "ROW 1", "ROW 3", "ROW 4", "row 2 failed"]
    assert sorted(SHOWN["rows"][:-1]) == sorted(rows)
    assert progress.startswith("5 of 5 (100 %)")
    assert run("rows", tmp_path) == ["5 of 5 (100 %)"]
    again = run("rows", tmp_path, **{"limit=3": "retry_failed=True", '{"row 2"}': "()"})
    assert again[0] == "ROW 2"


def test_each_save_is_an_event_that_draws_a_bar(tmp_path: Path) -> None:
    lines = run("watched", tmp_path)
    assert lines == SHOWN["watched"]
    assert lines[-1] == "[##########] 4 of 4 (100 %)"


def test_what_the_page_names_is_there() -> None:
    for name in ("done", "total", "rate", "fraction", "seconds_left", "bar"):
        assert hasattr(JobProgress(), name)
    assert JobSaved.__match_args__[:5] == ("scope", "key", "done", "total", "rate")
    options = {
        *inspect.signature(Scope.job).parameters,
        *inspect.signature(Scope.resume).parameters,
    }
    named = re.findall(r"`(\w+)=", PAGE)
    assert {"restart", "version", "migrate", "retry_failed", "save_every", "total"} <= set(named)
    assert set(named) - {"once"} <= options
    for path in re.findall(r"examples/\w+\.py", PAGE):
        assert (ROOT / path).is_file()
