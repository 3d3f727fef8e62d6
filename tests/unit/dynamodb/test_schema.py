"""Items become records, or an error that says what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence import CircuitBreakerState
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.schema import (
    decode_circuit,
    decode_lock,
    encode_circuit,
    is_live,
    item_key,
    purge_time,
    whole_seconds,
)

OURS = {"N": "1800000000000001"}


def item(**attributes: Any) -> dict[str, Any]:
    return {**item_key(schema.LOCK, "", "k"), **attributes}


def test_times_are_rounded_up_to_whole_seconds_and_kept_a_day_longer() -> None:
    assert [whole_seconds(ms) for ms in (0, 1, 999, 1000, 1001)] == [0, 1, 1, 1, 2]
    assert purge_time(1001) == {"N": "86402"}


def test_a_circuit_comes_back_as_it_was() -> None:
    state = CircuitBreakerState(
        state="half-open",
        failure_count=7,
        last_failure_ms=1,
        last_success_ms=2,
        open_until_ms=3,
        open_count=4,
        success_count=5,
        window_start_ms=6,
        reporters={"a": 1, "b.c#d": 2},
        probes={"p": 9},
        version=1800000000000001,
    )
    assert decode_circuit(item(version=OURS, data=encode_circuit(state))) == state


def test_a_lock_without_the_count_of_renewals_has_its_version_as_token() -> None:
    lease = {"nonce": {"S": "n"}, "leaseMs": {"N": "5"}, "leaseUntil": {"N": "9"}}
    record = decode_lock(item(version=OURS, data={"M": lease}, owner={"S": "o"}))
    assert record.fencing_token == record.version == 1800000000000001


@pytest.mark.parametrize(
    "attributes",
    [
        {"version": OURS},
        {"version": {"N": "x"}, "data": {"M": {}}},
        {"version": {"S": "1"}, "data": {"M": {}}},
        {"version": OURS, "data": {"S": "text"}},
        {"version": OURS, "data": {"M": {"leaseUntil": {"N": "1.5"}}}},
        {"version": OURS, "data": {"M": {"nonce": {"N": "1"}}}},
        {"version": OURS, "data": {"M": {}}, "owner": {"S": "o"}},
        {"data": {"M": {}}},
        {"version": {"N": "1" + "0" * 30}, "data": {"M": {}}},
    ],
    ids=repr,
)
def test_an_unreadable_lock_is_an_error_that_names_it(attributes: Any) -> None:
    with pytest.raises(CorruptRecordError, match="'LOCK#k' cannot be understood"):
        decode_lock(item(**attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        {"version": OURS, "data": {"M": {}}},
        {"version": OURS, "data": {"M": {"state": {"S": "ajar"}}}},
        {"version": OURS, "data": {"M": {"state": {"S": "open"}, "openUntil": {"N": "1e3"}}}},
        {"version": OURS, "data": {"M": {"state": {"S": "open"}, "probes": {"S": "p"}}}},
    ],
    ids=repr,
)
def test_an_unreadable_circuit_is_an_error_that_names_it(attributes: Any) -> None:
    with pytest.raises(CorruptRecordError, match="'LOCK#k' cannot be understood"):
        decode_circuit(item(**attributes))


def test_an_unreadable_expiry_is_an_error_that_names_it() -> None:
    with pytest.raises(CorruptRecordError, match="'LOCK#k' cannot be understood"):
        is_live(item(version=OURS, data={"M": {"until": {"N": "soon"}}}), 0)
