"""What the README shows is true: its programs run, its commands exist, its table is ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from gogoscope import Scope, Task, scope
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from gogoscope_dynamodb.schema import KEYS
from tests.support.engines import Engine
from tests.support.shared_stores import SHARED_STORES, shared_store_url

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def run_program(program: str, folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_first_program_has_ten_lines_of_code_and_prints_a_receipt(tmp_path: Path) -> None:
    program = blocks("python")[0]
    assert len([line for line in program.splitlines() if line]) == 10
    assert run_program(program, tmp_path) == "None receipt of A-0001\n"
    assert (tmp_path / "shop.db").exists()


@pytest.fixture(params=SHARED_STORES[1:])
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


def test_the_programs_run_on_any_server_by_its_url_alone(tmp_path: Path, server_url: str) -> None:
    first, stores = blocks("python")[0], blocks("python")[2]
    on_server = first.replace("sqlite:///shop.db", server_url)
    assert on_server != first
    assert run_program(on_server, tmp_path) == "None receipt of A-0001\n"
    on_server = stores.replace("sqlite:///shop.db?key_prefix=myapp:", server_url)
    assert on_server != stores
    assert run_program(on_server, tmp_path) == "{'name': 'John'}\n"


def test_the_program_about_scopes_runs(tmp_path: Path) -> None:
    assert run_program(blocks("python")[1], tmp_path).splitlines() == [
        "home from a and prices from b",
        "one from a",
        "two from a",
        "three from a",
        "Ok(error=None, value='news from a')",
    ]


def test_the_table_about_scopes_names_what_there_is() -> None:
    about = README.split("## A scope")[1].split("## Errors")[0]
    methods = re.findall(r"`s\.(\w+)", about)
    assert len(methods) == 17
    assert [name for name in methods if not hasattr(scope(), name)] == []
    assert [name for name in re.findall(r"`task\.(\w+)", about) if not hasattr(Task, name)] == []
    known = {*signature(scope).parameters, *signature(Scope.task).parameters, "stagger", "limit"}
    options = re.findall(r"`(\w+)`|[`(](\w+)=", about)
    assert {name for pair in options for name in pair if name} <= known


def test_the_program_about_stores_runs(tmp_path: Path) -> None:
    assert run_program(blocks("python")[2], tmp_path) == "{'name': 'John'}\n"


def test_the_program_about_runs_has_its_effect_once(tmp_path: Path) -> None:
    receipts = "{'receipt': 7}\n{'receipt': 7}\n"
    assert run_program(blocks("python")[3], tmp_path) == "charging 7\n" + receipts
    assert run_program(blocks("python")[3], tmp_path) == receipts


def test_the_program_about_jobs_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pages = "page 1\npage 2\npage 3\n"
    assert run_program(blocks("python")[4], tmp_path) == pages + "finished\n"
    assert run_program(blocks("python")[4], tmp_path) == "finished before\n"


def test_the_program_that_makes_a_table_runs_and_may_run_again(
    tmp_path: Path, dynamodb_engine: Engine
) -> None:
    if dynamodb_engine.kind == "real":
        pytest.skip("its table is called my-table, which on a real endpoint may be somebody's")
    environ = {**os.environ, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_engine.endpoint_url}
    for _ in range(2):
        run_program(blocks("python")[5], tmp_path, environ)


def test_no_program_is_left_out() -> None:
    assert len(blocks("python")) == 7


def test_the_test_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(blocks("python")[6])
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    result.assert_outcomes(passed=2)  # on asyncio and on trio


def test_the_table_for_the_aws_cli_is_the_one_that_create_table_makes() -> None:
    table = json.loads(blocks("json")[0])
    assert table == {"TableName": "my-table", "BillingMode": "PAY_PER_REQUEST", **KEYS}


def test_the_policy_names_every_operation_that_is_called_and_no_other() -> None:
    policy = json.loads(blocks("json")[1])
    granted = {action for statement in policy["Statement"] for action in statement["Action"]}
    to_make_a_table = {"CreateTable", "DescribeTable", "DescribeTimeToLive", "UpdateTimeToLive"}
    for operation in to_make_a_table:
        assert f"{operation}`" in README
    operations = [name for name in vars(DynamoDBClient) if not name.startswith("_")]
    called = {name.title().replace("_", "") for name in operations}
    assert granted == {f"dynamodb:{operation}" for operation in called - to_make_a_table}


def test_three_commands_do_all_their_set_up() -> None:
    fleet, tests, long_tests = (block.strip() for block in blocks("sh"))
    set_up = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && "
    assert fleet == set_up + ".venv/bin/python examples/fleet.py"
    assert tests == set_up + ".venv/bin/python -m pytest"
    assert long_tests == tests + " -m 'slow or engine'"
    assert (ROOT / "examples" / "fleet.py").is_file()


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


class Counting:
    """A DynamoDB client that answers with nothing and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def answer(**parameters: Any) -> dict[str, Any]:
            self.asked.add(f"dynamodb:{operation.title().replace('_', '')}")
            return {"Responses": {}, "UnprocessedKeys": {}, "UnprocessedItems": {}, "Items": []}

        return answer


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_methods_that_need_the_second_statement_of_the_policy_are_named() -> None:
    client: Any = Counting()
    store = DynamoDBAdapter(client, "my-table")

    async def iterate() -> None:
        assert [key async for key in store.iterate_keys()] == []

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: store.get("k"),
        "get_entry": lambda: store.get_entry("k"),
        "get_many": lambda: store.get_many(["a", "b"]),
        "set": lambda: store.set("k", 1),
        "set_many": lambda: store.set_many({"a": 1, "b": 2}),
        "touch": lambda: store.touch("k"),
        "delete": lambda: store.delete("k"),
        "delete_many": lambda: store.delete_many(["a", "b"]),
        "has": lambda: store.has("k"),
        "clear": store.clear,
        "keys": store.keys,
        "iterate_keys": iterate,
        "circuits": store.circuits,
        "locks": store.locks,
        "runs": store.runs,
        "jobs": store.jobs,
        "schedules": store.schedules,
        "get_state": lambda: store.get_state("k"),
        "holder": lambda: store.holder("k"),
    }
    statement = json.loads(blocks("json")[1])["Statement"][1]
    needing = set()
    for name, call in calls.items():
        client.asked.clear()
        await call()
        if client.asked & set(statement["Action"]):
            needing.add(name)
    (sentence,) = re.findall(r"Leave the second statement out if nothing calls([^.]*)\.", README)
    assert set(re.findall(r"`(\w+)\(\)`", sentence)) == needing
