"""Every circuit in a table, for people who want to see how their services are."""

from __future__ import annotations

from typing import Any

from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.persistence.validation import glob_matcher, literal_start
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import CIRCUIT, decode_circuit, text

SCAN_TIMEOUT = 20.0


async def list_circuits(
    table: Table, prefix: str, pattern: str | None
) -> dict[str, CircuitBreakerState]:
    """Read a whole table, page by page, and give the circuits below a prefix."""
    matches = glob_matcher(pattern)
    skipped = len(CIRCUIT) + len(prefix)
    parameters: dict[str, Any] = {
        "TableName": table.name,
        "ConsistentRead": True,
        "FilterExpression": "begins_with(#pk, :start)",
        "ExpressionAttributeNames": {"#pk": "pk"},
        "ExpressionAttributeValues": {
            ":start": text(CIRCUIT + prefix + literal_start(pattern or ""))
        },
    }
    found: dict[str, CircuitBreakerState] = {}
    while True:
        answer = await table.send("scan", parameters, timeout=SCAN_TIMEOUT)
        for item in answer.response["Items"]:
            key = item["pk"]["S"][skipped:]
            if matches(key):
                found[key] = decode_circuit(item)
        if (last := answer.response.get("LastEvaluatedKey")) is None:
            if not found:
                await table.found_nothing()
            return found
        parameters["ExclusiveStartKey"] = last
