"""What the README shows is true: its program runs, and what it names exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.pages import PAGES, ROOT, blocks, read_page, run_program
from tests.support.shared_stores import SHARED_STORES, shared_store_url

README = (ROOT / "README.md").read_text(encoding="utf-8")
(PROGRAM,) = blocks(README, "python")
RECEIPT = "None receipt of A-0001\n"


def test_the_program_has_ten_lines_of_code_and_prints_a_receipt(tmp_path: Path) -> None:
    assert len([line for line in PROGRAM.splitlines() if line]) == 10
    assert run_program(PROGRAM, tmp_path) == RECEIPT
    assert (tmp_path / "shop.db").exists()


@pytest.fixture(params=SHARED_STORES[1:])
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


def test_the_program_runs_on_any_server_by_its_url_alone(tmp_path: Path, server_url: str) -> None:
    on_server = PROGRAM.replace("sqlite:///shop.db", server_url)
    assert on_server != PROGRAM
    assert run_program(on_server, tmp_path) == RECEIPT


CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python "


def test_two_commands_do_all_their_set_up() -> None:
    fleet, tests = (block.strip() for block in blocks(README, "sh"))
    assert fleet == SET_UP + "examples/fleet.py"
    assert tests == SET_UP + "-m pytest"
    assert (ROOT / "examples" / "fleet.py").is_file()


def test_the_developers_guide_has_the_command_for_the_tests_that_take_long() -> None:
    (command,) = (block.strip() for block in blocks(read_page("developing"), "sh"))
    assert command == SET_UP + "-m pytest -m 'slow or engine'"


def test_it_fits_on_a_screen() -> None:
    assert len(README.splitlines()) <= 90
    assert len(README.split()) <= 750


def test_it_names_the_version_and_the_pythons_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Version {project['version']}, beta" in README
    assert "Development Status :: 4 - Beta" in project["classifiers"]
    language = "Programming Language :: Python :: 3."
    minors = [int(c.removeprefix(language)) for c in project["classifiers"] if language in c]
    assert f"Python 3.{min(minors)} to 3.{max(minors)}" in README


@pytest.mark.parametrize(
    "page", [pytest.param(path, id=path.name) for path in [ROOT / "README.md", *PAGES.glob("*.md")]]
)
def test_every_linked_file_exists(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^):#]+\.md)(?:#[\w-]*)?\)", text):
        assert (page.parent / link).is_file(), link


def test_every_page_of_the_documentation_can_be_reached() -> None:
    assert set(re.findall(r"\]\(docs/pages/(\w+)\.md", README)) >= {"guide", "guarantees", "stores"}


def test_every_figure_names_the_script_that_it_comes_from() -> None:
    named = re.findall(r"`((?:tests|examples)/[\w/.]+)`", README)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
