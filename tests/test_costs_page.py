"""The page about costs shows what is counted."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from tests.benchmarks.operation_costs import PAGE, TABLE, Costs, measure_dynamodb, measure_url
from tests.support.engines import Engine

pytestmark = pytest.mark.engine


def column_of(name: str) -> Costs:
    """Return what the page says of a store."""
    shown = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in shown[0].splitlines()
    ]
    number = header.index(name)
    return {row[0]: row[number] for row in rows}


def check(name: str, measure: Callable[[str], Coroutine[Any, Any, Costs]], url: str) -> None:
    counted = anyio.run(measure, url)
    counted.pop("-")  # what belongs to no row
    assert counted == column_of(name)


def test_the_page_shows_what_dynamodb_counts(atomic_dynamodb: Engine) -> None:
    if atomic_dynamodb.kind == "real":
        pytest.skip("a table would be made and left on a real endpoint")
    check("DynamoDB", measure_dynamodb, atomic_dynamodb.endpoint_url)


def test_the_page_shows_what_redis_counts(redis_url: str) -> None:
    check("Redis", measure_url, redis_url)


def test_the_page_shows_what_postgresql_counts(postgres_url: str) -> None:
    check("PostgreSQL", measure_url, postgres_url)
