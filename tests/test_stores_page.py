"""What the page about stores shows is true: its program runs, its table and its policy are ours."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import DynamoDBClient
from gogoscope_dynamodb.schema import KEYS
from tests.support.engines import Engine
from tests.support.pages import blocks, read_page, run_program

PAGE = read_page("stores")
(TABLE,) = blocks(PAGE, "python")


def test_the_program_that_makes_a_table_runs_and_may_run_again(
    tmp_path: Path, dynamodb_engine: Engine
) -> None:
    if dynamodb_engine.kind == "real":
        pytest.skip("its table is called my-table, which on a real endpoint may be somebody's")
    environ = {**os.environ, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_engine.endpoint_url}
    for _ in range(2):
        run_program(TABLE, tmp_path, environ)


def test_the_table_for_the_aws_cli_is_the_one_that_create_table_makes() -> None:
    table = json.loads(blocks(PAGE, "json")[0])
    assert table == {"TableName": "my-table", "BillingMode": "PAY_PER_REQUEST", **KEYS}


def test_the_policy_names_every_operation_that_is_called_and_no_other() -> None:
    policy = json.loads(blocks(PAGE, "json")[1])
    granted = {action for statement in policy["Statement"] for action in statement["Action"]}
    to_make_a_table = {"CreateTable", "DescribeTable", "DescribeTimeToLive", "UpdateTimeToLive"}
    for operation in to_make_a_table:
        assert f"{operation}`" in PAGE
    operations = [name for name in vars(DynamoDBClient) if not name.startswith("_")]
    called = {name.title().replace("_", "") for name in operations}
    assert granted == {f"dynamodb:{operation}" for operation in called - to_make_a_table}


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
        "semaphores": store.semaphores,
        "read_write_locks": store.read_write_locks,
        "rate_limits": store.rate_limits,
        "runs": store.runs,
        "jobs": store.jobs,
        "schedules": store.schedules,
        "get_state": lambda: store.get_state("k"),
        "holder": lambda: store.holder("k"),
    }
    statement = json.loads(blocks(PAGE, "json")[1])["Statement"][1]
    needing = set()
    for name, call in calls.items():
        client.asked.clear()
        await call()
        if client.asked & set(statement["Action"]):
            needing.add(name)
    (sentence,) = re.findall(r"Leave the second statement out if nothing calls([^.]*)\.", PAGE)
    assert set(re.findall(r"`(\w+)\(\)`", sentence)) == needing
