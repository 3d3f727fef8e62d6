"""Tasks of the event loop that wait until one of their kind is needed.

``waiting`` wakes those that wait. ``coming`` counts those that were called, or yielded to others,
and have not gone on yet. ``turn`` yields, which is cheaper than to wait and be called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gogoscope._core.event_loop import EventLoop


class Waiters:
    """Those that wait for one thing."""

    __slots__ = ("_loop", "coming", "turn", "waiting")

    turn: Callable[[], Awaitable[None]]

    def __init__(self) -> None:
        self._loop: EventLoop | None = None
        self.waiting: list[Awaitable[None]] = []
        self.coming = 0

    def begin_in(self, loop: EventLoop) -> None:
        """Note in which event loop they wait."""
        self._loop = loop
        self.turn = loop.turn

    async def wait(self) -> None:
        """Wait to be called."""
        assert self._loop is not None
        waiter = self._loop.waiter()
        self.waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter in self.waiting:
                self.waiting.remove(waiter)
            else:
                self.coming -= 1
            raise
        self.coming -= 1

    async def yield_turn(self) -> None:
        """Yield to others, and come again."""
        self.coming += 1
        try:
            await self.turn()
        finally:
            self.coming -= 1

    def call(self) -> None:
        """Call the one that waits for the shortest time."""
        assert self._loop is not None
        self.coming += 1
        self._loop.wake(self.waiting.pop())

    def call_all(self) -> None:
        """Call all that wait."""
        while self.waiting:
            self.call()
