"""Letting one task of an event loop pass at a time, at no cost while nobody else comes."""

from __future__ import annotations

import anyio


class OneAtATime:
    """An async context manager that one task is inside of at a time.

    ``_inside`` is whether a task is inside; ``_left`` is set when it leaves, if others wait. Unlike
    anyio's lock, it is not fair, and it is a checkpoint only for those who wait.
    """

    __slots__ = ("_inside", "_left")

    def __init__(self) -> None:
        self._inside = False
        self._left: anyio.Event | None = None

    async def __aenter__(self) -> None:
        while self._inside:
            if self._left is None:
                self._left = anyio.Event()
            await self._left.wait()
        self._inside = True

    async def __aexit__(self, *_: object) -> None:
        self._inside = False
        if self._left is not None:
            self._left.set()
            self._left = None
