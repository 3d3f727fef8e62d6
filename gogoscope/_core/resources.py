"""Blocks that are entered one after the other, and left in reverse order when another one ends.

``contextlib.AsyncExitStack`` does that, too, but sets attributes of what a block raises at its end,
which an error of a user may refuse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from gogoscope._core.errors import lead_to, traceback_of

T = TypeVar("T")


class Resources:
    """What was entered, the outermost first."""

    # _exits: leave a block each; called with a kind of exceptions, one of them, and its traceback.

    __slots__ = ("_exits",)

    def __init__(self) -> None:
        self._exits: list[Callable[..., Awaitable[bool | None]]] = []

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Enter a block; return what it returns."""
        leave = partial(type(resource).__aexit__, resource)
        entered = await type(resource).__aenter__(resource)
        self._exits.append(leave)
        return entered

    async def leave(self, leaving: BaseException | None) -> BaseException | None:
        """Leave all of them; return what leaves the outermost.

        :param leaving: what leaves the innermost
        """
        while self._exits:
            leave = self._exits.pop()
            try:
                if leaving is None:
                    await leave(None, None, None)
                elif await leave(type(leaving), leaving, traceback_of(leaving)):
                    leaving = None
            except BaseException as raised:  # noqa: BLE001 - it is returned
                if raised is not leaving:
                    lead_to(raised, leaving)
                leaving = raised
        return leaving
