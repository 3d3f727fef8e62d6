"""Requests for many items: in batches, several in flight, and again for what was not processed.

DynamoDB processes a batch item by item, and may leave a part of it unprocessed when the table is
throttled. That part is sent again. The request counts as fruitless only when no item of it was
processed, and is given up after as many fruitless tries in a row as a single request gets.

At most ``IN_FLIGHT`` requests run at a time. The first error ends the others, and is raised as it
is, not in a group.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio

from gogoscope.exceptions import ThrottledError
from gogoscope_dynamodb.requests import MOST_TRIES, UNANSWERED_ONCE, Table, backoff
from gogoscope_dynamodb.schema import Item, size_of

READ_BATCH = 100
WRITE_BATCH = 25
IN_FLIGHT = 16
BATCH_BYTES = 1_000_000
READ_TIMEOUT = 10.0  # 100 values may have 16 MB

Element = TypeVar("Element")
Start = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


@asynccontextmanager
async def side_by_side(limit: int = IN_FLIGHT) -> AsyncIterator[Start]:
    """Run pieces of work side by side; the first error cancels the others and is raised as it is.

    The block gets the function that starts a piece, which waits until fewer than ``limit`` pieces
    run. The block is left when all pieces have ended.
    """
    errors: list[Exception] = []
    free = anyio.Semaphore(limit)

    async def run(piece: Callable[[], Awaitable[None]]) -> None:
        try:
            await piece()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            group.cancel_scope.cancel()
        finally:
            free.release()

    async def start(piece: Callable[[], Awaitable[None]]) -> None:
        await free.acquire()
        group.start_soon(run, piece)

    async with anyio.create_task_group() as group:
        try:
            yield start
        except Exception as error:  # noqa: BLE001 - likewise
            errors.append(error)
            group.cancel_scope.cancel()
    if errors:
        raise errors[0]


def chunks(elements: Sequence[Element], size: int) -> Iterator[Sequence[Element]]:
    """Cut a sequence into parts of at most ``size`` elements."""
    for start in range(0, len(elements), size):
        yield elements[start : start + size]


async def read_batch(
    table: Table, keys: Sequence[Item], use: Callable[[Item], None], *, consistent: bool
) -> None:
    """Read up to 100 items, and pass each that exists to ``use``.

    :raises ThrottledError: if the table returned none of the rest, try after try
    """

    def collect(response: Mapping[str, Any]) -> Any:
        for items in response.get("Responses", {}).values():
            for item in items:
                use(item)
        return response.get("UnprocessedKeys")

    await _send(
        table,
        "batch_get_item",
        {table.name: {"Keys": list(keys), "ConsistentRead": consistent}},
        collect,
        timeout=max(table.timeout, READ_TIMEOUT),
    )


def write_batches(requests: Sequence[Item]) -> Iterator[list[Item]]:
    """Cut writes into batches of at most 25, each of about a million bytes at most."""
    batch: list[Item] = []
    size = 0
    for request in requests:
        more = size_of_write(request)
        if batch and (len(batch) == WRITE_BATCH or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += more
    if batch:
        yield batch


def size_of_write(request: Item) -> int:
    """Return about how many bytes a write of a batch sends."""
    return size_of(request["PutRequest"]["Item"]) if "PutRequest" in request else 0


async def write_batch(
    table: Table, requests: Sequence[Item], again: Callable[[Item], Awaitable[None]]
) -> None:
    """Send up to 25 requests to put or to delete an item.

    DynamoDB has no conditions for the writes of a batch. So one that may have been applied, and
    was not answered, is not sent again: its writes are, each by itself.

    :param again: sends one of them again, on its condition
    :raises ThrottledError: if the table processed none of the rest, try after try
    """
    left = await _send(
        table,
        "batch_write_item",
        {table.name: list(requests)},
        lambda response: response.get("UnprocessedItems"),
        size=sum(map(size_of_write, requests)),
        once=True,
    )
    async with side_by_side() as start:
        for request in left.get(table.name, []):
            await start(partial(again, request))


async def _send(
    table: Table,
    operation: str,
    requests: dict[str, Any],
    unprocessed: Callable[[Mapping[str, Any]], Any],
    *,
    size: int = 0,
    once: bool = False,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Send a batch, and again what was not processed; return what may have been, if once."""
    unfinished, fruitless = _count(requests), 0
    while True:
        parameters = {"RequestItems": requests}
        answer = await table.send(operation, parameters, size=size, once=once, timeout=timeout)
        if answer.code == UNANSWERED_ONCE:
            return requests
        requests = unprocessed(answer.response) or {}
        before, unfinished = unfinished, _count(requests)
        if not unfinished:
            return {}
        # A throttled table processes a few at a time.
        fruitless = 0 if unfinished < before else fruitless + 1
        if fruitless == MOST_TRIES:
            raise ThrottledError(
                f"table {table.name!r} refuses to carry out {unfinished} parts of a {operation}"
            )
        await anyio.sleep(backoff(fruitless + 1))


def _count(requests: Mapping[str, Any]) -> int:
    return sum(
        len(part["Keys"] if isinstance(part, Mapping) else part) for part in requests.values()
    )
