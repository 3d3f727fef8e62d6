"""Making the table that a store needs."""

from __future__ import annotations

from typing import Any

import anyio

from gogoscope.exceptions import ConfigurationError, StoreTimeoutError
from gogoscope_dynamodb.client import DynamoDBClient, check_client
from gogoscope_dynamodb.errors import INVALID_REQUEST, TABLE_BUSY, TABLE_MISSING
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import KEYS, TTL_ATTRIBUTE, check_keys

ACTIVE_SECONDS = 120.0
POLL_SECONDS = 0.5
ADMIN_TIMEOUT = 10.0
_USABLE = ("ACTIVE", "UPDATING")  # a table is used as before while an index is built, for hours


async def create_table(client: DynamoDBClient, name: str) -> None:
    """Make a table for a store, billed on demand, with its time to live; wait until it is active.

    A table that exists already is used if its keys and its time to live are the right ones.
    Cancelling it may leave a table that is not complete; calling it again completes it.

    :param client: a low-level async DynamoDB client
    :param name: the table's name
    :raises ConfigurationError: if the table exists with other keys, or with its time to live on
        another attribute
    :raises StoreTimeoutError: if the table is not active after two minutes
    """
    check_client(client)
    table = Table(name, client, ADMIN_TIMEOUT)
    with anyio.move_on_after(ACTIVE_SECONDS):
        description = await _describe(table) or await _create(table)
        while description.get("TableStatus") not in _USABLE:
            await anyio.sleep(POLL_SECONDS)
            description = await _describe(table) or await _create(table)
        check_keys(name, description)
        await _enable_time_to_live(table)
        return
    raise StoreTimeoutError(f"table {name!r} is not active after {ACTIVE_SECONDS:g} s")


async def _describe(table: Table) -> dict[str, Any]:
    """Return the description of a table, empty if there is none."""
    answer = await table.send(
        "describe_table", {"TableName": table.name}, refusals=frozenset({TABLE_MISSING})
    )
    return dict(answer.response["Table"]) if answer.granted else {}


async def _create(table: Table) -> dict[str, Any]:
    """Create a table, and return its description, empty if somebody else is creating it."""
    answer = await table.send(
        "create_table",
        {"TableName": table.name, "BillingMode": "PAY_PER_REQUEST", **KEYS},
        refusals=frozenset({TABLE_BUSY}),
    )
    return dict(answer.response["TableDescription"]) if answer.granted else {}


async def _enable_time_to_live(table: Table) -> None:
    if await _has_time_to_live(table):
        return
    answer = await table.send(
        "update_time_to_live",
        {
            "TableName": table.name,
            "TimeToLiveSpecification": {"AttributeName": TTL_ATTRIBUTE, "Enabled": True},
        },
        refusals=frozenset({INVALID_REQUEST}),
    )
    # It is also refused when somebody else has just enabled it.
    if not answer.granted and not await _has_time_to_live(table):
        raise ConfigurationError(
            f"the time to live of table {table.name!r} cannot be enabled: "
            f"{answer.response['Error']['Message']}"
        )


async def _has_time_to_live(table: Table) -> bool:
    answer = await table.send("describe_time_to_live", {"TableName": table.name})
    found = answer.response["TimeToLiveDescription"]
    if found["TimeToLiveStatus"] not in ("ENABLING", "ENABLED"):
        return False
    if (attribute := found["AttributeName"]) != TTL_ATTRIBUTE:
        raise ConfigurationError(
            f"table {table.name!r} has its time to live on {attribute!r}, but the store needs it "
            f"on {TTL_ATTRIBUTE!r}"
        )
    return True
