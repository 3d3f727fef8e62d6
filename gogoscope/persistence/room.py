"""Room for requests: so many are in flight at once, and the others wait in a queue.

Who waits is let in, first come first served, when a request ends. Waiting is bounded by the store's
silence: as long as the store answers anybody, the queue moves, and waiting costs nothing but time.
So who waited is told for how long that was, and puts off the end of its budget. When nobody was
answered for as long as a request has patience, counted from the call at the earliest, those who
wait give up too.

Mutable state: ``_free`` counts the places that nobody has, ``_queue`` holds an event for each who
waits, and ``_answers`` knows when the store answered last. Rooms of the same store share that: else
those who wait in one would take a store for silent that answers in the other.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NoReturn

import anyio

from gogoscope._core.clock import monotonic


class NoRoomError(Exception):
    """No request before this one was answered, so it was not sent."""


class _Answers:
    """When a store answered last, on the monotonic clock."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = -math.inf


class Room:
    """Places for requests in flight.

    :param places: how many there are
    :param beside: another room for requests to the same store: what is answered there counts here
    """

    def __init__(self, places: float = math.inf, *, beside: Room | None = None) -> None:
        self._free = places
        self._queue: deque[anyio.Event] = deque()
        self._answers: _Answers = _Answers() if beside is None else beside._answers

    @property
    def answered(self) -> float:
        """When the store answered last, on the monotonic clock."""
        return self._answers.last

    @answered.setter
    def answered(self, when: float) -> None:
        self._answers.last = when

    def place(self, patience: float) -> Place:
        """Return a block that waits for a place, and has it until its end.

        It begins with what :meth:`wait` returns.

        :param patience: for how many seconds the store may be silent while this waits; then
            ``NoRoomError`` is raised
        """
        return Place(self, patience)

    def take(self) -> bool:
        """Take a place, which :meth:`leave` returns, if there is one now."""
        if self._free > 0 and not self._queue:
            self._free -= 1
            return True
        return False

    async def wait(self, patience: float) -> float:
        """Wait in the queue for a place, which :meth:`leave` returns.

        :param patience: as in :meth:`place`
        :returns: for how many seconds, if the store answered others meanwhile; 0 if it did not
        :raises NoRoomError: if the store was silent for longer
        """
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
                self.leave()
            else:
                self._queue.remove(turn)
            raise
        return monotonic() - called if self.answered > called else 0.0

    def leave(self) -> None:
        """Return a place, to the first in the queue if there is one."""
        if self._queue:
            self._queue.popleft().set()
        else:
            self._free += 1


class Place:
    """A place in a room for the length of a block; each request needs one, so it is no generator.

    :param room: the room
    :param patience: as in :meth:`Room.place`
    """

    __slots__ = ("_patience", "_room")

    def __init__(self, room: Room, patience: float) -> None:
        self._room = room
        self._patience = patience

    async def __aenter__(self) -> float:
        return 0.0 if self._room.take() else await self._room.wait(self._patience)

    async def __aexit__(self, *raised: object) -> None:
        self._room.leave()


def _give_up() -> NoReturn:
    raise NoRoomError("the store answered nobody while this request waited for a connection")
