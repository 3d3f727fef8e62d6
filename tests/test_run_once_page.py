"""The page about run once shows programs that run, and print what it says."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gogoscope import Once
from tests.support.engines import Engine, Tables
from tests.support.pages import outputs
from tests.support.postgres_server import PostgresTable

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "run_once.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE),
)
RECEIPT = "{'receipt': 7}"
PRINTED = {
    "runs": ["charged 10", *[f"None {RECEIPT}"] * 3, f"done before {RECEIPT}"],
    "effects": [
        *("asking the bank", "TimeoutError") * 2,
        *("asking the bank", "CardDeclined ('card expired', 17)"),
        "KeptError ('card expired', 17)",
        *("shipping", "('parcel', 1)", "True"),
    ],
    "payload": ["10", "10", "run 'order-2': the key was used before, with another payload"],
    "after_crash": ["charged", "OutcomeUnknownError", "found in the bank's list"],
    "bursts": [*["{'receipt': 4}"] * 3, "{'receipt': 5}"],
}
ON_SERVERS = {"on_dynamodb", "on_postgresql"}
SHIPPED = ["{'order': 'A-1'}"] * 2 + ["shipped 1 time"]


def run(name: str, folder: Path, **environment: str) -> list[str]:
    program = folder / f"{name}.py"
    program.write_text(FILES[name], encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_page_shows_what_its_programs_print() -> None:
    shown = {name: text.splitlines() for name, text in outputs(PAGE).items()}
    assert shown == {name: PRINTED[name] for name in PRINTED if name != "after_crash"}


def test_every_program_of_the_page_is_run_here() -> None:
    assert PAGE.count("```python") == len(FILES)
    assert set(FILES) == {*PRINTED, *ON_SERVERS}


@pytest.mark.parametrize("name", PRINTED)
def test_a_program_prints_what_the_page_says(tmp_path: Path, name: str) -> None:
    assert run(name, tmp_path) == PRINTED[name]


def test_the_transaction_on_dynamodb_happens_once(
    tmp_path: Path, dynamodb_engine: Engine, dynamodb_tables: Tables
) -> None:
    if dynamodb_engine.kind == "real":
        pytest.skip("the tables of the page have names of its own")

    async def create() -> None:
        await dynamodb_tables.client.create_table(
            TableName="shop-orders",
            KeySchema=[{"AttributeName": "order", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "order", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )

    dynamodb_tables.portal.call(create)
    try:
        url = dynamodb_engine.endpoint_url
        assert run("on_dynamodb", tmp_path, AWS_ENDPOINT_URL_DYNAMODB=url) == SHIPPED
    finally:
        for name in ("shop-orders", "shop-runs"):
            dynamodb_tables.drop(name)


def test_the_transaction_on_postgresql_happens_once(tmp_path: Path, postgres_engine: str) -> None:
    tables = [PostgresTable(postgres_engine, name) for name in ("shop_runs", "shop_shipped")]
    try:
        assert run("on_postgresql", tmp_path, DATABASE_URL=postgres_engine) == SHIPPED
    finally:
        for table in tables:
            table.drop()


def test_what_the_page_names_is_there() -> None:
    options = set(inspect.signature(Once).parameters)
    in_table = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert in_table == options - {"key"}
    for path in re.findall(r"\]\((\w+\.md)\)", PAGE):
        assert (ROOT / "docs" / "pages" / path).is_file()
