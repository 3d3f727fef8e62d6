"""The places of a process, and those who wait for them: first come, first served.

A place belongs to no caller: when its time has come, the first in the line goes. So whoever is
cancelled leaves the line, all behind it move up, and what is left over is the last place. The
places beyond those who wait are spare. They are for callers to come, who need no request then:
that is also how a batch is held. Invariants:

- There are as many places as callers in the line, at least, and they stand in the order of their
  times.
- A spare place whose time has passed is forgotten, unless a batch may hold it.

Only the first in the line sleeps until the time of its place; the others wait for their turn.
"""

from __future__ import annotations

from collections import deque

import anyio
from attrs import define, field

from gogoscope._core.clock import monotonic
from gogoscope.exceptions import GogoscopeError


@define(eq=False)
class Place:
    """When a call may go, and what it costs.

    ``at_us`` is that time by the store's clock, and ``go_at`` the same by ``monotonic()``;
    ``tat_us`` is what the bucket was with it. ``local`` tells that no store knows of it.
    """

    cost_us: int
    tat_us: int
    at_us: int
    go_at: float
    local: bool = False


@define(eq=False)
class Want:
    """A call that wants a place, until ``ends`` by ``monotonic()``.

    It is answered when it stands in the line of places, or by an error, or by having to take a
    place in the bucket of this process. ``turn`` is set when it is to look what it may do now.
    """

    cost_us: int
    ends: float
    placed: bool = False
    error: GogoscopeError | None = None
    is_local: bool = False
    turn: anyio.Event | None = None

    @property
    def answered(self) -> bool:
        """Return whether it need not ask any more."""
        return self.placed or self.error is not None or self.is_local

    def wake(self) -> None:
        """Let it look."""
        if self.turn is not None:
            self.turn.set()

    async def wait(self) -> None:
        """Wait until it is to look."""
        self.turn = anyio.Event()
        await self.turn.wait()


@define(eq=False)
class Places:
    """The places of a process for calls of one cost, in one limit.

    :param name: the limit
    :param most_held: how many places whose time has passed it may hold

    ``users`` counts the calls that ask for a place here, or have one and have not gone yet.
    """

    name: str
    most_held: int
    users: int = 0
    _places: deque[Place] = field(factory=deque)
    _line: dict[Want, None] = field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self._places)

    def is_in_use(self) -> bool:
        """Return whether a call counts on it, or there is a place for one to come."""
        if not self.users:
            self._drop_late()
        return self.users > 0 or bool(self._places)

    def add(self, place: Place) -> None:
        """Add a place, after all others."""
        self._places.append(place)

    def join(self, want: Want) -> None:
        """Let a call stand in the line, at its end."""
        self._line[want] = None
        want.placed = True

    def has_spare(self, ends: float) -> bool:
        """Return whether there is a place for one more call, and it comes in time."""
        places, waiting = self._places, len(self._line)
        if not waiting:
            self._drop_late()
        return len(places) > waiting and places[waiting].go_at <= ends

    async def turn(self, want: Want) -> Place:
        """Wait until it is the turn of a call, and the time of its place has come.

        Cancelled, it has left the line.
        """
        try:
            while next(iter(self._line)) is not want:
                await want.wait()
            left = self._places[0].go_at - monotonic()
            while left > 0:
                await anyio.sleep(left)
                left = self._places[0].go_at - monotonic()  # the first one may be another now
            return self._places.popleft()
        finally:
            self.leave(want)

    def leave(self, want: Want) -> None:
        """Leave the line."""
        self._line.pop(want, None)
        if self._line:
            next(iter(self._line)).wake()

    def put_back(self, place: Place) -> None:
        """Return a place that was not used; it was the first one."""
        self._places.appendleft(place)

    def take_last(self, tat_us: int) -> list[Place]:
        """Take the spare places at the end, as far as they follow each other up to a time.

        What a batch may hold is not taken.

        :param tat_us: what the bucket is with the last one
        """
        taken: list[Place] = []
        while len(self._places) > len(self._line) + self.most_held:
            if self._places[-1].tat_us != tat_us:
                break
            taken.append(self._places.pop())
            tat_us -= taken[-1].cost_us
        return taken

    def take_ready(self) -> int:
        """Take the spare places whose time has come; return how many there are."""
        now, count = monotonic(), 0
        while len(self._places) > len(self._line) and self._places[0].go_at <= now:
            self._places.popleft()
            count += 1
        return count

    def _drop_late(self) -> None:
        """Forget the places whose time has passed, but for those that it may hold."""
        places, held, now = self._places, self.most_held, monotonic()
        while len(places) > held and places[held].go_at < now:
            places.popleft()

    def drop_spare(self) -> None:
        """Forget the spare places: they are lost."""
        while len(self._places) > len(self._line):
            self._places.pop()
