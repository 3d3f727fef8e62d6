"""Pieces of work side by side, a few at a time."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio

from gogoscope.exceptions import TaskCancelled

IN_FLIGHT = 16

Element = TypeVar("Element")
Start = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]


@asynccontextmanager
async def side_by_side(limit: int = IN_FLIGHT) -> AsyncIterator[Start]:
    """Run pieces of work side by side; the first error cancels the others and is raised as it is.

    The block gets the function that starts a piece, which waits until fewer than ``limit`` pieces
    run. The block is left when all pieces have ended.

    :raises TaskCancelled: if asyncio's own cancellation hit a piece, which then ends the others
    """
    errors: list[Exception] = []
    free = anyio.Semaphore(limit)
    unfinished: dict[int, Coroutine[Any, Any, None]] = {}
    numbers = itertools.count()

    async def run(number: int, piece: Callable[[], Awaitable[object]]) -> None:
        try:
            await piece()
            del unfinished[number]
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            group.cancel_scope.cancel()
        finally:
            free.release()

    async def start(piece: Callable[[], Awaitable[object]]) -> None:
        await free.acquire()
        number = next(numbers)
        unfinished[number] = running = run(number, piece)
        group.create_task(running)

    async with anyio.create_task_group() as group:
        try:
            yield start
        except Exception as error:  # noqa: BLE001 - likewise
            errors.append(error)
            group.cancel_scope.cancel()
    for running in unfinished.values():
        running.close()  # asyncio may have cancelled it before its first step
    if errors:
        raise errors[0]
    if unfinished:
        raise TaskCancelled("part of it was cancelled by asyncio's own Task.cancel()")


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
