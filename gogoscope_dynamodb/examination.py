"""What DynamoDB tells of a table: its keys, its time to live, and the time.

A lease on DynamoDB counts by the clocks of those who hold it and who wait for it, so a clock that
is wrong matters. Every answer comes with the server's time in whole seconds. An answer says that
the server's clock was somewhere within its second while the request was under way. Some answers,
spread over more than a second, together tell it about as well as a round trip takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import anyio

from gogoscope.exceptions import ConfigurationError
from gogoscope.persistence import Clock, Finding, told_offset, told_size
from gogoscope_dynamodb.errors import ACCESS_DENIED
from gogoscope_dynamodb.requests import NO_ITEM, Table
from gogoscope_dynamodb.schema import TTL_ATTRIBUTE, check_keys

LOOKS_AT_CLOCK = 12
SECONDS_BETWEEN_LOOKS = 0.1

_DENIED = frozenset({ACCESS_DENIED})


async def examine(table: Table, clock: Clock, max_clock_skew: float) -> list[Finding]:
    """Look at a table, and compare the clock of this machine with the server's.

    :param max_clock_skew: what the store allows for, in seconds
    """
    description = await _describe(table)
    found = list(_keys(table.name, description))
    found.append(await _time_to_live(table))
    found.append(await _clock(table, clock, max_clock_skew))
    return found


async def describe_scan(table: Table) -> str:
    """Return what a scan reads."""
    description = await _describe(table)
    if description is None:
        return f"every item of table {table.name!r}, each of which is charged"
    items, size = description.get("ItemCount", 0), description.get("TableSizeBytes", 0)
    return (
        f"every item of table {table.name!r}, about {items:,} of them with {told_size(size)}, "
        "each of which is charged"
    )


async def sample_keys(table: Table, limit: int) -> dict[str, list[str]]:
    """Return some keys of a table by their kind, by one page of a scan."""
    names = {"#pk": "pk"}
    asked = {"ProjectionExpression": "#pk", "ExpressionAttributeNames": names, "Limit": limit}
    answer = await table.send("scan", {"TableName": table.name, **asked})
    sampled: dict[str, list[str]] = {}
    for item in answer.response["Items"]:
        kind, _, key = str(item.get("pk", {}).get("S", "")).partition("#")
        sampled.setdefault(_KINDS.get(kind, kind.lower()), []).append(key)
    return sampled


_KINDS = {"CB": "circuit"}


async def _describe(table: Table) -> Mapping[str, Any] | None:
    """Return the description of a table, ``None`` if that is not permitted."""
    answer = await table.send("describe_table", {"TableName": table.name}, refusals=_DENIED)
    return dict(answer.response["Table"]) if answer.granted else None


def _keys(name: str, description: Mapping[str, Any] | None) -> Iterator[Finding]:
    if description is None:
        advice = "grant dynamodb:DescribeTable to look at them"
        yield Finding("keys", "doubtful", "the table may not be described", advice)
        return
    billing = description.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED")
    status = description.get("TableStatus", "unknown")
    size = told_size(description.get("TableSizeBytes", 0))
    items = description.get("ItemCount", 0)
    yield Finding("table", "fine", f"{name}, {status}, {billing}, about {items:,} items, {size}")
    try:
        check_keys(name, description)
    except ConfigurationError as error:
        yield Finding("keys", "wrong", str(error), "make another table with create_table")
    else:
        yield Finding("keys", "fine", "pk and sk")


async def _time_to_live(table: Table) -> Finding:
    answer = await table.send("describe_time_to_live", {"TableName": table.name}, refusals=_DENIED)
    if not answer.granted:
        advice = "grant dynamodb:DescribeTimeToLive to look at it"
        return Finding("time to live", "doubtful", "it may not be described", advice)
    told = answer.response["TimeToLiveDescription"]
    status, attribute = told.get("TimeToLiveStatus"), told.get("AttributeName")
    if status in ("ENABLED", "ENABLING") and attribute == TTL_ATTRIBUTE:
        return Finding("time to live", "fine", f"on {attribute}")
    found = f"{status}, on {attribute}" if attribute else str(status)
    advice = (
        f"enable it on the attribute {TTL_ATTRIBUTE}: otherwise what has expired is never removed"
    )
    return Finding("time to live", "wrong", found, advice)


async def _clock(table: Table, clock: Clock, max_clock_skew: float) -> Finding:
    # The server's clock is ahead of this machine's by ``low`` to ``high`` seconds.
    low, high = -math.inf, math.inf
    for look in range(LOOKS_AT_CLOCK):
        if look:
            await anyio.sleep(SECONDS_BETWEEN_LOOKS)
        sent = clock.wall()
        answer = await table.send("get_item", {"TableName": table.name, "Key": NO_ITEM})
        received = clock.wall()
        date = _date(answer.response)
        if date is None:
            advice = "compare this machine's clock with another one"
            return Finding("clock", "doubtful", "the answers do not tell the time", advice)
        low, high = max(low, date - received), min(high, date + 1 - sent)
    behind, error = (low + high) / 2, max(0.0, (high - low) / 2)
    allowed = max_clock_skew / 2
    found = f"{told_offset(behind * 1000)} the server's, give or take {error * 1000:.0f} ms"
    if abs(behind) - error <= allowed:
        return Finding("clock", "fine", found)
    return Finding(
        "clock",
        "wrong",
        f"{found}; each clock may be off by {allowed * 1000:.0f} ms",
        "set this machine's clock by NTP, or raise max_clock_skew in every program's URL",
    )


def _date(response: Mapping[str, Any]) -> float | None:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(str(headers["date"])).timestamp()
    except (KeyError, ValueError, TypeError):
        return None
