"""Whoever can write to a store can put anything there: it is a value, or a CorruptRecordError.

Every operation of every store meets one record that hypothesis made up, near enough to a right one
to be taken for it. After that the record can still be removed or replaced by hand.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gogoscope.exceptions import CorruptRecordError, ThrottledError
from gogoscope.persistence import (
    CircuitBreakerState,
    FailureReport,
    JSONCodec,
    LockClaim,
    LockRecord,
    Store,
)
from gogoscope.persistence.rules.cache import CacheRecord
from gogoscope.stores import MemoryStore, SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.dynamodb_faults import FaultyClient, refuse

FUZZED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FUTURE_MS = 4_000_000_000_000

Operation = Callable[[Store], Awaitable[object]]

CLAIM = LockClaim(nonce="mine", owner="me", lease_ms=1000)
REPORT = FailureReport(reporter="me", count=1, threshold=2, open_ms=1000)
LOCKS: list[Operation] = [
    lambda store: store.acquire("k", 1),
    lambda store: store.extend("k", 1, "o"),
    lambda store: store.holder("k"),
    lambda store: store.read_lock("k"),
    lambda store: store.claim_lock("k", CLAIM),
    lambda store: store.renew_lock("k", "n", 1, 1000, FUTURE_MS),
    lambda store: store.release_lock("k", "n", in_time=True),
    lambda store: store.hand_over_lock("k", "n", CLAIM),
    lambda store: store.reserve_lock("k", "turn", 1000),
]
CIRCUITS: list[Operation] = [
    lambda store: store.get_state("k"),
    lambda store: store.record_failure("k", 2),
    lambda store: store.record_success("k"),
    lambda store: store.count_failures("k", REPORT),
    lambda store: store.claim_probe("k", "mine", 1000, 2),
    lambda store: store.settle_probe("k", "p", succeeded=True, success_threshold=1, open_ms=1000),
    lambda store: store.return_probe("k", "p"),
    lambda store: store.reset_failures("k", 1),
]
CACHED: list[Operation] = [
    lambda store: store.get("k"),
    lambda store: store.get_entry("k", stale=True),
    lambda store: store.get_many(["k"]),
    lambda store: store.has("k"),
    lambda store: store.touch("k", 60),
    lambda store: store.set("k", 1, 60, if_absent=True),
]
REPAIRS: dict[str, list[Operation]] = {
    "lock": [lambda store: store.force_release("k")],
    "circuit": [
        lambda store: store.circuits(),
        lambda store: store.force_open("k"),
        lambda store: store.force_close("k"),
        lambda store: store.reset_circuit("k"),
        lambda store: store.set_state("k", CircuitBreakerState()),
    ],
    "cache": [
        lambda store: store.keys(),
        lambda store: store.delete("k"),
        lambda store: store.set("k", 1),
        lambda store: store.clear(),
    ],
}
OPERATIONS = {"lock": LOCKS, "circuit": CIRCUITS, "cache": CACHED}

TEXTS = st.sampled_from(["", "o", "n", "p", "open", "half-open", "closed", "\ud800", "\x1b[2J"])
NUMBERS = st.sampled_from(
    [0, 1, -1, FUTURE_MS, 2**63 - 1, 2**63, 10**4000, 1.5, math.nan, math.inf, True]
)
SCALARS = st.none() | TEXTS | NUMBERS
ANYTHING = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(TEXTS, SCALARS, max_size=2)
CLEAN: dict[str, dict[str, Any]] = {
    "lock": {
        "version": 1,
        "fencing_token": 1,
        "owner": "o",
        "nonce": "n",
        "lease_ms": 1000,
        "lease_until_ms": FUTURE_MS,
    },
    "circuit": {"state": "half-open", "failure_count": 1, "probes": {"p": 1}, "version": 1},
}
NAMES = {
    "lock": [field.name for field in fields(LockRecord)],
    "circuit": [field.name for field in fields(CircuitBreakerState)],
}


def near(kind: str) -> st.SearchStrategy[Any]:
    """Return a strategy for the text of a record that is almost right."""
    if kind == "cache":
        return st.sampled_from(["1", "~5~1", "~x~1", "~-1~1", "~" + "9" * 5000 + "~1", "[", "NaN"])
    wrong = st.dictionaries(st.sampled_from([*NAMES[kind], "other"]), ANYTHING, max_size=2)
    return wrong.map(lambda parts: json.dumps(CLEAN[kind] | parts))


def rows(kind: str) -> st.SearchStrategy[tuple[Any, Any]]:
    """Return a strategy for the content and the purge time of a row."""
    contents = near(kind) | st.text(st.characters(exclude_categories=["Cs"])) | st.binary()
    times = st.sampled_from([None, FUTURE_MS, 2**62, -1, 1.5, "soon", b"\xff"])
    return st.tuples(contents | st.sampled_from(["null", "7", "[]", "{}"]), times)


async def survives(
    store: Store, kind: str, plant: Callable[[], None], *more: type[Exception]
) -> None:
    for operation in OPERATIONS[kind]:
        plant()
        try:
            await operation(store)
        except CorruptRecordError as error:
            assert "k'" in str(error)  # noqa: PT017 - most operations raise nothing
        except more:
            pass
    for repair in REPAIRS[kind]:
        plant()
        with contextlib.suppress(*more):
            await repair(store)


@pytest.mark.parametrize("kind", ["lock", "circuit", "cache"])
@FUZZED
@given(data=st.data())
def test_whatever_stands_in_a_sqlite_file_is_a_value_or_a_corrupt_record(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    content, purge_at = data.draw(rows(kind))
    path = tmp_path / "store.db"

    async def main() -> None:
        async with SQLiteStore(path) as store:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:

                def plant() -> None:
                    connection.execute(
                        "INSERT OR REPLACE INTO records (kind, key, purge_at, content) "
                        "VALUES (?, 'k', ?, ?)",
                        (kind, purge_at, content),
                    )

                await survives(store, kind, plant)

    anyio.run(main)


@FUZZED
@given(text=near("cache") | st.text())
def test_whatever_stands_in_memory_is_a_value_or_a_corrupt_record(text: str) -> None:
    store = MemoryStore(codec=JSONCodec())

    def plant() -> None:
        store._cached["k"] = (CacheRecord(text), math.inf)  # type: ignore[index]

    anyio.run(survives, store, "cache", plant)


ATTRIBUTES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.one_of(
        st.sampled_from(["", "o", "n", "open", "half-open", "1", "[", "NaN"]).map(
            lambda value: {"S": value}
        ),
        st.sampled_from(["0", "1", "-1", str(FUTURE_MS), "1.5", "1E+60", "9" * 38]).map(
            lambda value: {"N": value}
        ),
        st.just({"B": b"\xff"}),
        st.booleans().map(lambda value: {"BOOL": value}),
        st.just({"NULL": True}),
        st.just({"SS": ["a"]}),
    ),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda value: {"L": value})
        | st.dictionaries(st.sampled_from("pqr"), inner, max_size=2).map(lambda value: {"M": value})
    ),
    max_leaves=4,
)
LEASE: dict[str, Any] = {
    "nonce": {"S": "n"},
    "leaseMs": {"N": "1000"},
    "leaseUntil": {"N": str(FUTURE_MS)},
    "acquiredAt": {"N": "1"},
    "renewals": {"N": "0"},
    "meta": {"M": {}},
}
STATE: dict[str, Any] = {
    "state": {"S": "half-open"},
    "failureCount": {"N": "1"},
    "openCount": {"N": "1"},
    "successCount": {"N": "0"},
    "windowStart": {"N": "1"},
    "reporters": {"M": {}},
    "probes": {"M": {"p": {"N": "1"}}},
}
VALUE: dict[str, Any] = {
    "json": {"S": "1"},
    "by": {"S": "x"},
    "until": {"N": str(FUTURE_MS)},
    "stale": {"N": "1"},
}
PARTS = {"lock": ("LOCK#", LEASE), "circuit": ("CB#", STATE), "cache": ("CACHE#", VALUE)}


@st.composite
def items(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Return an item that is almost right."""
    start, clean = PARTS[kind]
    wrong = draw(st.dictionaries(st.sampled_from(list(clean)), ATTRIBUTES, max_size=2))
    missing = draw(st.sets(st.sampled_from(list(clean)), max_size=1))
    parts = {name: value for name, value in (clean | wrong).items() if name not in missing}
    item = {"version": {"N": str(10**15)}, "owner": {"S": "o"}, "data": {"M": parts}}
    item |= draw(st.dictionaries(st.sampled_from(["version", "owner", "data"]), ATTRIBUTES))
    for name in draw(st.sets(st.sampled_from(list(item)), max_size=1)):
        del item[name]
    return {"pk": {"S": f"{start}k"}, "sk": {"S": "METADATA"}, **item}


class OneItem(FaultyClient):
    """A table that always has the same item: no condition holds, and no write changes it."""

    def __init__(self, item: dict[str, Any]) -> None:
        super().__init__()
        self.item = item

    async def get_item(self, **parameters: Any) -> Any:
        return {"Item": self.item}

    async def put_item(self, **parameters: Any) -> Any:
        return {}

    async def update_item(self, **parameters: Any) -> Any:
        fault = refuse("ConditionalCheckFailedException", "", item=self.item)
        return await fault(anyio.sleep_forever)

    async def delete_item(self, **parameters: Any) -> Any:
        return {"Attributes": self.item}

    async def scan(self, **parameters: Any) -> Any:
        return {"Items": [self.item]}

    async def batch_get_item(self, **parameters: Any) -> Any:
        return {"Responses": {"table": [self.item]}}


@pytest.mark.parametrize("kind", ["lock", "circuit", "cache"])
@FUZZED
@given(data=st.data())
def test_whatever_stands_in_a_table_is_a_value_or_a_corrupt_record(
    kind: str, data: st.DataObject
) -> None:
    store = DynamoDBAdapter(OneItem(data.draw(items(kind))), "table")

    def plant() -> None:
        return None

    async def main() -> None:
        # Where no write ever succeeds, one gives up in the end.
        await survives(store, kind, plant, ThrottledError)

    anyio.run(main)
