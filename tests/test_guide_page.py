"""The guide shows programs that run, and names what there is."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

import pytest

from gogoscope import Scope, Task, scope
from tests.support.pages import blocks, read_page, run_program
from tests.support.shared_stores import SHARED_STORES, shared_store_url

PAGE = read_page("guide")
SCOPE, STORE, RUN, JOB = PROGRAMS = blocks(PAGE, "python")


def test_the_program_about_scopes_runs(tmp_path: Path) -> None:
    assert run_program(SCOPE, tmp_path).splitlines() == [
        "home from a and prices from b",
        "one from a",
        "two from a",
        "three from a",
        "Ok(error=None, value='news from a')",
    ]


def test_the_table_about_scopes_names_what_there_is() -> None:
    about = PAGE.split("## A scope")[1].split("## Errors")[0]
    methods = re.findall(r"`s\.(\w+)", about)
    assert len(methods) == 17
    assert [name for name in methods if not hasattr(scope(), name)] == []
    assert [name for name in re.findall(r"`task\.(\w+)", about) if not hasattr(Task, name)] == []
    known = {*signature(scope).parameters, *signature(Scope.task).parameters, "stagger", "limit"}
    options = re.findall(r"`(\w+)`|[`(](\w+)=", about)
    assert {name for pair in options for name in pair if name} <= known


def test_the_program_about_stores_runs(tmp_path: Path) -> None:
    assert run_program(STORE, tmp_path) == "{'name': 'John'}\n"


@pytest.fixture(params=SHARED_STORES[1:])
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


def test_the_program_about_stores_runs_on_any_server_by_its_url_alone(
    tmp_path: Path, server_url: str
) -> None:
    on_server = STORE.replace("sqlite:///shop.db?key_prefix=myapp:", server_url)
    assert on_server != STORE
    assert run_program(on_server, tmp_path) == "{'name': 'John'}\n"


def test_the_program_about_runs_has_its_effect_once(tmp_path: Path) -> None:
    receipts = "{'receipt': 7}\n{'receipt': 7}\n"
    assert run_program(RUN, tmp_path) == "charging 7\n" + receipts
    assert run_program(RUN, tmp_path) == receipts


def test_the_program_about_jobs_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pages = "page 1\npage 2\npage 3\n"
    assert run_program(JOB, tmp_path) == pages + "finished\n"
    assert run_program(JOB, tmp_path) == "finished before\n"
