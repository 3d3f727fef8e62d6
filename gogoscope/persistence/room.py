"""Room for requests: so many are in flight at once, and the others wait in a queue.

Who waits is let in, first come first served, when a request ends. Waiting is bounded by the store's
silence: as long as the store answers anybody, the queue moves, and waiting costs nothing but time.
When nobody was answered for as long as a request has patience, counted from the call at the
earliest, those who wait give up too.

Mutable state: ``_free`` counts the places that nobody has, ``_queue`` holds an event for each who
waits, and ``answered`` is when the store answered last, on the monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio

from gogoscope._core.clock import monotonic


class NoRoomError(Exception):
    """No request before this one was answered, so it was not sent."""


class Room:
    """Places for requests in flight.

    :param places: how many there are
    """

    def __init__(self, places: float = math.inf) -> None:
        self._free = places
        self._queue: deque[anyio.Event] = deque()
        self.answered = -math.inf

    @asynccontextmanager
    async def place(self, patience: float) -> AsyncIterator[None]:
        """Wait for a place, and have it for the length of a block.

        :param patience: for how many seconds the store may be silent while this waits
        :raises NoRoomError: if it was silent for longer
        """
        if self._free > 0 and not self._queue:
            self._free -= 1
        else:
            await self._wait(patience)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, patience: float) -> None:
        called = monotonic()
        turn = anyio.Event()
        self._queue.append(turn)
        try:
            while not turn.is_set():
                left = max(called, self.answered) + patience - monotonic()
                with anyio.move_on_after(left):
                    await turn.wait()
                if left <= 0 and not turn.is_set():
                    _give_up()
        except BaseException:
            if turn.is_set():
                self._leave()
            else:
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        if self._queue:
            self._queue.popleft().set()
        else:
            self._free += 1


def _give_up() -> NoReturn:
    raise NoRoomError("the store answered nobody while this request waited for a connection")
