"""Going through pages that are read one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

KEYS_PER_PAGE = 1000

Item = TypeVar("Item")


class Pages(AsyncIterator[Item]):
    """The items of pages, each page read when it is needed.

    It holds nothing open between two items, so it may be left without being closed, which an
    async generator may not.

    :param read: given where to go on, at first ``None``, gives the items of a page and where the
        next one begins, ``None`` after the last
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
