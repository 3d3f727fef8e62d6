"""The orders that the fleet has to get paid."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import frozen


@frozen
class Order:
    """One order; ``number`` is unique and is used as the idempotency key."""

    number: str
    customer: str
    cents: int


def read_orders(path: Path) -> list[Order]:
    """Read one order from each line of a file."""
    with path.open(encoding="utf-8") as lines:
        return [Order(**json.loads(line)) for line in lines]
