"""Work for many items: several requests in flight, and reads in batches.

DynamoDB reads a batch item by item, and may leave a part of it unprocessed when the table is
throttled. That part is read again. The request counts as fruitless only when no item of it was
read, and is given up after as many fruitless tries in a row as a single request gets.

A few requests run at a time. The first error ends the others, and is raised as it is, not in a
group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio

from gogoscope.exceptions import ThrottledError
from gogoscope.persistence import side_by_side
from gogoscope_dynamodb.requests import MOST_TRIES, Table, backoff
from gogoscope_dynamodb.schema import Item

READ_BATCH = 100
READ_TIMEOUT = 10.0  # 100 values may have 16 MB

Element = TypeVar("Element")


def chunks(elements: Sequence[Element], size: int) -> Iterator[Sequence[Element]]:
    """Cut a sequence into parts of at most ``size`` elements."""
    for start in range(0, len(elements), size):
        yield elements[start : start + size]


async def for_each(
    work: Callable[[Element], Awaitable[object]], elements: Sequence[Element]
) -> None:
    """Do some work for each element, side by side; for one alone, right here."""
    if len(elements) == 1:
        await work(elements[0])
        return
    async with side_by_side() as start:
        for element in elements:
            await start(partial(work, element))


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
