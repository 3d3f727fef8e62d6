"""Iterating over items that are read page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

KEYS_PER_PAGE = 1000

Item = TypeVar("Item")


class Pages(AsyncIterator[Item]):
    """An iterator over the items of pages, each of which is read when it is needed.

    It holds nothing open between two items, so that it need not be closed, unlike an async
    generator.

    :param read: reads the page that begins at a place, ``None`` for the first one; returns its
        items and the place of the next page, ``None`` after the last
    """

    def __init__(self, read: Callable[[Any], Awaitable[tuple[Iterable[Item], Any]]]) -> None:
        self._read = read
        self._page: list[Item] = []
        self._next: Any = None
        self._ended = False

    async def __anext__(self) -> Item:
        while not self._page:
            if self._ended:
                raise StopAsyncIteration
            items, following = await self._read(self._next)
            self._page = list(items)[::-1]
            self._next = following
            self._ended = following is None
        return self._page.pop()
