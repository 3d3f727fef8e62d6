"""The site: its programs run, its tables name what there is, and no public name is left out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from gogoscope import exceptions
from tests.support.pages import outputs

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "pages"
PROGRAM = re.compile(r"^```python\n# (\w+)\.py\n(.*?)^```$", re.DOTALL | re.MULTILINE)

FLAKY = """\
calling the service for order 1
calling the service for order 1
order 1: the service is down
calling the service for order 2
order 2: nobody calls for another 30 s
order 3: nobody calls for another 30 s
"""

# The programs of the pages that no other test runs, and what each prints.
PRINTED = {
    "index": {"shop": "None receipt of A-0001\n"},
    "start": {
        "tasks": "tea: None 30\nunicorn: LookupError('no such product') None\n",
        "lock": "A has the lock\nA is done\n",
        "once": "charging 7\n{'receipt': 'R-7'}\n",
        "flaky": FLAKY,
    },
    "locks": {
        "locks": "order 7 written, token sent\nnot twice: LockError\nheld: True and then None\n",
        "leading": "this process leads\n",
    },
    "circuit_breakers": {
        "breaker": "no answer\nno answer\ncircuit 'weather' is open; retry after 30 s\nopen\n",
        "retries": "after 3 tries\n",
    },
    "cache": {
        "cached_values": "building 7\n{\"{'report': 7, 'rows': 3}\"}\n{'name': 'John'} ?\n"
        "asking for EUR\n1.1 1.1\n",
    },
    "batch": {
        "mails": "13 failed: customer 13 has no address\n19 sent, 1 failed\n",
        "import_customers": "missing: 0\nrun once more: 1 at most\n",
        "nightly": "run 1\nrun 2\n",
    },
    "operating": {"service": "ready\n"},
}


def text_of(page: str) -> str:
    return (PAGES / f"{page}.md").read_text(encoding="utf-8")


def program_of(page: str, name: str) -> str:
    program: str = dict(PROGRAM.findall(text_of(page)))[name]
    return program.replace("anyio.sleep(3)", "anyio.sleep(0.1)")


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, names in PRINTED.items() for name in names]
)
def test_a_program_of_the_site_prints_what_it_should(page: str, name: str, tmp_path: Path) -> None:
    program = program_of(page, name)
    ran = subprocess.run(
        [sys.executable, "-c", program, "A"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    # A machine that is busy takes a second of those that are left.
    printed = re.sub(r"\b(29|28|27|26|25) s\n", "30 s\n", ran.stdout)
    assert printed == PRINTED[page][name]


def test_the_two_processes_of_the_start_page_take_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", program_of("start", "lock")]
    output = tmp_path / "output"
    with output.open("w") as both:
        processes = [
            subprocess.Popen([*command, name], cwd=tmp_path, stdout=both) for name in ("A", "B")
        ]
        assert [process.wait(120) for process in processes] == [0, 0]
    first, *others = output.read_text().splitlines()
    a, b = "AB" if first.startswith("A") else "BA"
    assert first == f"{a} has the lock"
    assert others == [f"{a} is done", f"{b} has the lock", f"{b} is done"]


@pytest.mark.parametrize("page", PRINTED)
def test_a_page_shows_what_its_programs_print(page: str) -> None:
    assert outputs(text_of(page)).items() <= PRINTED[page].items()


def test_the_start_shows_the_errors_that_its_programs_print() -> None:
    assert set(outputs(text_of("start"))) == {"tasks", "flaky"}
    assert PRINTED["index"]["shop"].strip() in text_of("index")


@pytest.mark.parametrize("page", PRINTED)
def test_every_program_of_these_pages_is_run_here(page: str) -> None:
    text = text_of(page)
    assert set(dict(PROGRAM.findall(text))) == set(PRINTED[page])
    assert text.count("```python") == len(PRINTED[page])


def test_every_test_that_the_guarantees_name_exists() -> None:
    rows = [row for row in text_of("guarantees").splitlines() if row.startswith("| **")]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, f"this row names no test: {row[:60]}"
        for path, test in named:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            there = {node.name for node in ast.walk(tree) if isinstance(node, functions)}
            assert test in there, f"{path} has no {test}"


def test_every_error_has_its_cause_and_its_cure() -> None:
    errors = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    named = re.findall(r"^\| `(\w+)` \|", text_of("errors"), re.MULTILINE)
    assert sorted(named) == sorted(errors)


PUBLIC = [
    "gogoscope",
    "gogoscope.blocking",
    "gogoscope.events",
    "gogoscope.exceptions",
    "gogoscope.integrations.asgi",
    "gogoscope.integrations.aws",
    "gogoscope.integrations.opentelemetry",
    "gogoscope.persistence",
    "gogoscope.stores",
    "gogoscope.testing",
    "gogoscope.testing.conformance",
    "gogoscope_dynamodb",
]


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module: str) -> None:
    listed = getattr(import_module(module), "__all__", None)
    if listed is None:
        listed = [
            name
            for name, value in vars(import_module(module)).items()
            if isinstance(value, type) and value.__module__ == module
        ]
    pages = [path.read_text(encoding="utf-8") for path in (PAGES / "reference").glob("*.md")]
    shown = set(re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE))
    last_names = {name.rpartition(".")[2] for name in shown} | {"Result"}  # an alias, told in words
    assert [name for name in listed if name not in last_names] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(path.relative_to(PAGES)) for path in PAGES.rglob("*.md")}
    named = set(re.findall(r"([\w/]+\.md)$", navigation, re.MULTILINE))
    assert pages - named == set(), "add these to nav in docs/mkdocs.yml"
    assert named - pages == set()
