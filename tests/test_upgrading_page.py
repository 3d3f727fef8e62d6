"""The page about upgrading names the numbers that the stores have, and what there is."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module

import pytest

import gogoscope
from gogoscope.stores.postgres import schema as postgres
from gogoscope.stores.redis import scripts
from gogoscope.stores.sqlite.schema import STEPS
from gogoscope_dynamodb import entries, schema
from tests.support.pages import ROOT, read_page

PAGE = read_page("upgrading")
ROW = re.compile(r"^\| (\w+) \| (.+?) \| (\d.*?) \| .+ \|$", re.MULTILINE)


def test_it_names_the_number_of_everything_that_a_store_keeps() -> None:
    named = [
        (store, [int(n) for n in re.findall(r"\d", number)])
        for store, _, number in ROW.findall(PAGE)
    ]
    assert named == [
        ("SQLite", [len(STEPS)]),
        ("PostgreSQL", [postgres.VERSION]),
        ("PostgreSQL", [postgres.FORMAT]),
        ("Redis", [int(scripts.FORMAT)]),
        ("DynamoDB", [entries.FORMAT, entries.FORMAT_OVER]),
        ("DynamoDB", [schema.RATE_FORMAT]),
    ]


def test_it_is_about_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    minor = project["version"].rpartition(".")[0]
    assert f"| in {minor} |" in PAGE
    assert f"to {minor}\n" in PAGE


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`(gogoscope[\w.]*)`", PAGE))))
def test_a_module_that_it_names_can_be_imported(module: str) -> None:
    import_module(module)


def test_a_lost_lease_is_no_lock_error() -> None:
    assert "`LeaseLostError` is no `LockError`" in PAGE
    assert not issubclass(gogoscope.LeaseLostError, gogoscope.LockError)
