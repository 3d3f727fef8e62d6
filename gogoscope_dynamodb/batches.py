"""Requests for many items: side by side, in batches, and again for what was left unprocessed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from gogoscope.exceptions import ThrottledError
from gogoscope_dynamodb.requests import MOST_TRIES, Table, backoff
from gogoscope_dynamodb.schema import Item

READ_BATCH = 100
WRITE_BATCH = 25
IN_FLIGHT = 16

Element = TypeVar("Element")
Start = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


@asynccontextmanager
async def side_by_side(limit: int = IN_FLIGHT) -> AsyncIterator[Start]:
    """Run work side by side, at most ``limit`` pieces at a time; the first error ends it all.

    The block gets what starts a piece, waiting for a place, and is left when all have ended. An
    error is raised by itself, not in a group.
    """
    errors: list[Exception] = []
    places = anyio.Semaphore(limit)

    async def run(piece: Callable[[], Awaitable[None]]) -> None:
        try:
            await piece()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            group.cancel_scope.cancel()
        finally:
            places.release()

    async def start(piece: Callable[[], Awaitable[None]]) -> None:
        await places.acquire()
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
    """Cut a sequence into pieces of at most ``size``."""
    for start in range(0, len(elements), size):
        yield elements[start : start + size]


async def read_batch(
    table: Table, keys: Sequence[Item], use: Callable[[Item], None], *, consistent: bool
) -> None:
    """Pass each of up to 100 items that exists to ``use``.

    :raises ThrottledError: if the table gave no more of them, try after try
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
    )


async def write_batch(table: Table, requests: Sequence[Item]) -> None:
    """Carry out up to 25 requests to put or to delete an item.

    :raises ThrottledError: if the table carried out no more of them, try after try
    """
    await _send(
        table,
        "batch_write_item",
        {table.name: list(requests)},
        lambda response: response.get("UnprocessedItems"),
    )


async def _send(
    table: Table,
    operation: str,
    requests: dict[str, Any],
    unprocessed: Callable[[Mapping[str, Any]], Any],
) -> None:
    left, fruitless = _count(requests), 0
    while True:
        answer = await table.send(operation, {"RequestItems": requests})
        requests = unprocessed(answer.response) or {}
        before, left = left, _count(requests)
        if not left:
            return
        # A throttled table carries out a few at a time: giving up takes tries without any.
        fruitless = 0 if left < before else fruitless + 1
        if fruitless == MOST_TRIES:
            raise ThrottledError(
                f"table {table.name!r} refuses to carry out {left} parts of a {operation}"
            )
        await anyio.sleep(backoff(fruitless + 1))


def _count(requests: Mapping[str, Any]) -> int:
    return sum(
        len(part["Keys"] if isinstance(part, Mapping) else part) for part in requests.values()
    )
