"""Reads of many items in batches.

DynamoDB reads a batch item by item, and may leave a part of it unprocessed when the table is
throttled. That part is read again. The request counts as fruitless only when no item of it was
read, and is given up after as many fruitless tries in a row as a single request gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from gogoscope.exceptions import ThrottledError
from gogoscope.persistence import KEYS_PER_PAGE
from gogoscope_dynamodb.requests import MOST_TRIES, Table, backoff
from gogoscope_dynamodb.schema import Item

READ_BATCH = 100
READ_TIMEOUT = 10.0  # 100 values may have 16 MB

Element = TypeVar("Element")


def chunks(elements: Sequence[Element], size: int) -> Iterator[Sequence[Element]]:
    """Cut a sequence into parts of at most ``size`` elements."""
    for start in range(0, len(elements), size):
        yield elements[start : start + size]


async def items_of(make: Callable[[Element], Item], elements: Iterable[Element]) -> list[Item]:
    """Make the items of very many elements, and leave the event loop its time meanwhile."""
    items: list[Item] = []
    for element in elements:
        items.append(make(element))
        if len(items) % KEYS_PER_PAGE == 0:
            await checkpoint()
    return items


async def read_batch(
    table: Table, keys: Sequence[Item], use: Callable[[Item], None], *, consistent: bool
) -> None:
    """Read up to 100 items, and pass each that exists to ``use``.

    :raises ThrottledError: if the table returned none of the rest, try after try
    """
    requests: Any = {table.name: {"Keys": list(keys), "ConsistentRead": consistent}}
    timeout = max(table.timeout, READ_TIMEOUT)
    unread, fruitless = len(keys), 0
    while requests:
        parameters = {"RequestItems": requests}
        answer = await table.send("batch_get_item", parameters, timeout=timeout)
        for items in answer.response.get("Responses", {}).values():
            for item in items:
                use(item)
        requests = answer.response.get("UnprocessedKeys")
        before, unread = unread, sum(len(part["Keys"]) for part in (requests or {}).values())
        if not unread:
            return
        # A throttled table processes a few at a time.
        fruitless = 0 if unread < before else fruitless + 1
        if fruitless == MOST_TRIES:
            raise ThrottledError(f"table {table.name!r} refuses to read {unread} items")
        await anyio.sleep(backoff(fruitless + 1))
