"""The table as it is stored: its keys, its attributes, and how items become records and back.

Every item has the partition key ``pk``, which is the kind, the store's prefix and the key; a sort
key ``sk`` that is always the same; a ``version``; and its content in the map ``data``. DynamoDB
purges it some time after ``expiresAt``, in seconds.

An item without a part that every write of this package leaves, or with one of another type, is
malformed: reading it raises ``CorruptRecordError``, which names it. It can be replaced by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gogoscope.exceptions import ConfigurationError, CorruptRecordError
from gogoscope.persistence import (
    CircuitBreakerState,
    Codec,
    LockClaim,
    LockRecord,
    check_circuit_state,
    check_key,
    check_lock,
)
from gogoscope.persistence.rate_records import RateRecord

Item = dict[str, Any]

LOCK, CIRCUIT, CACHE, RATE = "LOCK#", "CB#", "CACHE#", "RATE#"
RATE_FORMAT = 1
SORT_KEY = "METADATA"
TTL_ATTRIBUTE = "expiresAt"
KEYS: dict[str, Any] = {
    "KeySchema": [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ],
    "AttributeDefinitions": [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "sk", "AttributeType": "S"},
    ],
}

LONGEST_KEY = 2048
LARGEST_ITEM = 400 * 1024
KEEP_MS = 86_400_000
LARGEST_NUMBER = 2**63

ZERO, ONE = {"N": "0"}, {"N": "1"}
NOTHING: dict[str, Any] = {"M": {}}


def check_keys(name: str, description: Mapping[str, Any]) -> None:
    """Compare the keys of a table with those that the store needs.

    :param description: the table as DescribeTable describes it
    :raises ConfigurationError: if they differ; the message shows both
    """
    found, needed = _describe_keys(description), _describe_keys(KEYS)
    if found != needed:
        raise ConfigurationError(
            f"table {name!r} has the keys {found}, but the store needs {needed}; use another "
            f"table, made with gogoscope_dynamodb.create_table(client, name)"
        )


def item_key(kind: str, prefix: str, key: str) -> Item:
    """Return the primary key of an item.

    :raises TypeError: if ``key`` is not a ``str``
    :raises ValueError: if it is empty, or too long with its prefix
    """
    partition = f"{kind}{prefix}{check_key(key)}"
    if len(partition) > LONGEST_KEY // 4 and (size := len(partition.encode())) > LONGEST_KEY:
        raise ValueError(
            f"key must have at most {LONGEST_KEY} bytes with its prefix, got {size}: {key[:80]!r}"
        )
    return {"pk": {"S": partition}, "sk": {"S": SORT_KEY}}


def primary_key(item: Item) -> Item:
    """Return the primary key of an item that was found."""
    return {"pk": item["pk"], "sk": {"S": SORT_KEY}}


def key_of(item: Item, kind: str, prefix: str) -> str:
    """Return the key of an item without the store's prefix."""
    partition: str = item["pk"]["S"]
    return partition[len(kind) + len(prefix) :]


def text(value: str) -> dict[str, str]:
    """Return the attribute value of a text."""
    return {"S": value}


def number(value: int) -> dict[str, str]:
    """Return the attribute value of an integer."""
    return {"N": str(value)}


def numbers(values: Mapping[str, int]) -> dict[str, Any]:
    """Return the attribute value of a map of integers."""
    return {"M": {name: number(value) for name, value in values.items()}}


def purge_time(until_ms: int) -> dict[str, str]:
    """Return ``expiresAt`` of a lock or a circuit that is needed until a time.

    It is kept a day longer, so that its version, and with it the order of fencing tokens, outlasts
    any difference between two clocks.
    """
    return number(whole_seconds(until_ms + KEEP_MS))


def whole_seconds(time_ms: int) -> int:
    """Return milliseconds as seconds, rounded up."""
    return -(-time_ms // 1000)


def milliseconds(duration: float) -> int:
    """Return seconds as milliseconds, rounded up."""
    return math.ceil(duration * 1000)


def version_of(item: Item) -> int:
    """Return the version of an item.

    :raises CorruptRecordError: if it has none, or one that is no integer
    """
    with _understanding(item):
        return _integer(item, "version")


def encode_lease(claim: LockClaim, now_ms: int) -> dict[str, Any]:
    """Return the ``data`` of a lock that is held from now on."""
    return {
        "M": {
            "nonce": text(claim.nonce),
            "leaseMs": number(claim.lease_ms),
            "leaseUntil": number(now_ms + claim.lease_ms),
            "acquiredAt": number(now_ms),
            "renewals": ZERO,
            "meta": {"M": {name: text(value) for name, value in claim.metadata.items()}},
        }
    }


def decode_lock(item: Item) -> LockRecord:
    """Return the lock of an item.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        version = version_of(item)
        data = item["data"]["M"]
        owner = item["owner"]["S"] if "owner" in item else None
        held = owner is not None
        meta = data["meta"]["M"] if "meta" in data else {}
        record = LockRecord(
            version=version,
            fencing_token=version - _integer(data, "renewals", 0),
            owner=owner,
            nonce=data["nonce"]["S"] if held or "nonce" in data else None,
            lease_ms=_integer(data, "leaseMs", None if held else 0),
            lease_until_ms=_integer(data, "leaseUntil", None if held else 0),
            acquired_at_ms=_integer(data, "acquiredAt", 0),
            metadata={name: value["S"] for name, value in meta.items()},
            released_by=data["releasedBy"]["S"] if "releasedBy" in data else None,
            next_turn=data["next"]["S"] if "next" in data else None,
            next_until_ms=_integer(data, "nextUntil", 0),
        )
        check_lock(record)
        return record


def stamp_of(item: Item | None) -> int:
    """Return the stamp of an item: writes with a stamp up to it are refused, now and for ever.

    :raises CorruptRecordError: if it is no integer
    """
    if item is None:
        return 0
    with _understanding(item):
        return _integer(item, "stamp", 0)


def encode_circuit(state: CircuitBreakerState) -> dict[str, Any]:
    """Return the ``data`` of a circuit, with each map that later writes change inside."""
    optional = {
        "lastFailureTime": state.last_failure_ms,
        "lastSuccessTime": state.last_success_ms,
        "openUntil": state.open_until_ms,
        "since": state.since_ms,
    }
    return {
        "M": {
            "state": text(state.state),
            "failureCount": number(state.failure_count),
            "openCount": number(state.open_count),
            "successCount": number(state.success_count),
            "windowStart": number(state.window_start_ms),
            "reporters": numbers(state.reporters),
            "probes": numbers(state.probes),
            **{name: number(value) for name, value in optional.items() if value is not None},
        }
    }


def decode_circuit(item: Item) -> CircuitBreakerState:
    """Return the circuit of an item.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        data = item["data"]["M"]
        state = CircuitBreakerState(
            state=data["state"]["S"],
            failure_count=_integer(data, "failureCount"),
            last_failure_ms=_optional(data, "lastFailureTime"),
            last_success_ms=_optional(data, "lastSuccessTime"),
            open_until_ms=_optional(data, "openUntil"),
            open_count=_integer(data, "openCount", 0),
            success_count=_integer(data, "successCount", 0),
            window_start_ms=_integer(data, "windowStart"),
            reporters=_integers(data, "reporters"),
            probes=_integers(data, "probes"),
            since_ms=_optional(data, "since"),
            version=version_of(item),
        )
        return check_circuit_state(state)


def encode_rate(record: RateRecord, now_us: int, writer: str) -> dict[str, Any]:
    """Return the ``data`` of a rate limit.

    :param now_us: the time of whoever writes it
    :param writer: the name of the write
    """
    return {
        "M": {
            "format": number(RATE_FORMAT),
            "tat": number(record.tat_us),
            "until": number(record.until_us),
            "at": number(now_us),
            "by": text(writer),
        }
    }


def decode_rate(item: Item) -> RateRecord:
    """Return the rate limit of an item.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        version_of(item)
        data = item["data"]["M"]
        if data["format"] != number(RATE_FORMAT):
            raise ValueError(f"its format must be {RATE_FORMAT}, got {data['format']}")
        return RateRecord(_integer(data, "tat"), _integer(data, "until"))


def rate_writer_of(item: Item) -> tuple[str, int]:
    """Return the name of the write that a rate limit is from, and the time of whoever wrote it.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        data = item["data"]["M"]
        name: str = data["by"]["S"]
        return name, _integer(data, "at")


def end_of(item: Item) -> int | None:
    """Return when the value of a cache item expires, in milliseconds; ``None`` for never.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        return _optional(item["data"]["M"], "until") if "data" in item else None


def is_live(item: Item, now_ms: int) -> bool:
    """Return whether the value of a cache item has not expired.

    :raises CorruptRecordError: if the item cannot be understood
    """
    until_ms = end_of(item)
    return until_ms is None or until_ms > now_ms


def is_kept(item: Item, now_ms: int) -> bool:
    """Return whether the value of a cache item has not expired, or is still kept after that.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        kept_ms = _integer(item["data"]["M"], "stale", 0)
    return is_live(item, now_ms - kept_ms)


def decode_value(item: Item, codec: Codec) -> Any:
    """Return the value of a cache item.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        return codec.loads(item["data"]["M"]["json"]["S"])


def size_of(item: Item) -> int:
    """Return about how many bytes a cache item has."""
    return len(item["data"]["M"]["json"]["S"])


def writer_of(item: Item) -> str:
    """Return the name of the write that a cache item's value, or its lack of one, is from.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        name: str = item["data"]["M"]["by"]["S"]
        return name


def toucher_of(item: Item) -> str | None:
    """Return the name of the write that touched a cache item last, or ``None`` if none did.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        data = item["data"]["M"]
        return data["touchedBy"]["S"] if "touchedBy" in data else None


def written_version_of(item: Item) -> int:
    """Return the version with which the value of a cache item, or its lack of one, was written.

    The item's own is higher if it was touched since.

    :raises CorruptRecordError: if the item cannot be understood
    """
    with _understanding(item):
        data = item["data"]["M"]
        return _integer(data, "written") if "written" in data else _integer(item, "version")


def _describe_keys(description: Mapping[str, Any]) -> str:
    types = {
        attribute["AttributeName"]: attribute["AttributeType"]
        for attribute in description["AttributeDefinitions"]
    }
    return ", ".join(
        f"{key['AttributeName']} ({types[key['AttributeName']]}, {key['KeyType']})"
        for key in description["KeySchema"]
    )


def _integer(data: Mapping[str, Any], name: str, missing: int | None = None) -> int:
    """Return an integer; ``missing`` where there is none, unless that is ``None``."""
    if missing is not None and name not in data:
        return missing
    found = int(data[name]["N"])
    if abs(found) >= LARGEST_NUMBER:
        raise ValueError(f"{name} is out of range")
    return found


def _optional(data: Mapping[str, Any], name: str) -> int | None:
    return _integer(data, name) if name in data else None


def _integers(data: Mapping[str, Any], name: str) -> dict[str, int]:
    entries = data[name]["M"]
    return {key: _integer(entries, key) for key in entries}


class _understanding:  # noqa: N801 - a generator would cost most of what reading a value does
    """A block in which whatever is raised says that an item is malformed."""

    __slots__ = ("_item",)

    def __init__(self, item: Item) -> None:
        self._item = item

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            partition = self._item.get("pk", {}).get("S")
            raise CorruptRecordError(
                f"the item {partition!r} cannot be understood: {type(error).__name__}: {error}"
            ) from error
