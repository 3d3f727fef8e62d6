"""Pieces of work side by side, a few at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

IN_FLIGHT = 16

Start = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]


@asynccontextmanager
async def side_by_side(limit: int = IN_FLIGHT) -> AsyncIterator[Start]:
    """Run pieces of work side by side; the first error cancels the others and is raised as it is.

    The block gets the function that starts a piece, which waits until fewer than ``limit`` pieces
    run. The block is left when all pieces have ended.
    """
    errors: list[Exception] = []
    free = anyio.Semaphore(limit)

    async def run(piece: Callable[[], Awaitable[object]]) -> None:
        try:
            await piece()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            group.cancel_scope.cancel()
        finally:
            free.release()

    async def start(piece: Callable[[], Awaitable[object]]) -> None:
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
