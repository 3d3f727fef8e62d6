"""The event that a graceful shutdown sets: from then on some things do not start any more.

Setting it cancels nothing. What obeys it (periodic calls, leaders) ends by itself, after what it is
in the middle of. All else goes on, so that requests in flight are answered.

A scope inside another is stopping when that one is, and may stop alone. Nothing is handed down for
that: the event of a scope looks at the events of those around it, so a scope that is made and never
entered leaves nothing behind, and whoever waits listens to all of them.

``_was_set`` is the flag of this scope alone, ``_around`` the event of the scope around it.
``_listeners`` are called when something changed: the event was set, or the last thing that may
still end has ended. ``_in_progress`` counts these things, here and in the scopes inside.
``_thread`` is the thread of the listeners.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Self

import anyio

from gogoscope._core.between import Between
from gogoscope._core.cancellation import checkpoint, says_stopping
from gogoscope.exceptions import TaskCancelled

REASON = "the scope is stopping"


class Stopping(anyio.Event):
    """An event that is set with that of the scope around it, or alone.

    :param around: the event of the scope around it
    """

    __slots__ = ("_around", "_in_progress", "_listeners", "_thread", "_was_set")

    def __new__(cls, around: Stopping | None = None) -> Self:
        """Make an event that needs no event loop."""
        return object.__new__(cls)

    def __init__(self, around: Stopping | None = None) -> None:
        self._around = around
        self._was_set = False
        self._listeners: set[Callable[[], object]] = set()
        self._in_progress = 0
        self._thread = 0

    def __repr__(self) -> str:
        return f"<s.stopping, {'set' if self.is_set() else 'not set'}>"

    def set(self) -> None:
        """Ask what obeys this event to end, in the scope and in those inside; cancel nothing.

        :raises RuntimeError: in another thread than the scope's
        """
        if self._listeners and self._thread != threading.get_ident():
            raise RuntimeError(
                "s.stopping.set() was called in another thread than that of the scope; write "
                "anyio.from_thread.run_sync(s.stopping.set)"
            )
        if not self._was_set:
            self._was_set = True
            self._tell()

    def is_set(self) -> bool:
        """Return whether the scope is stopping, or one around it."""
        return any(event._was_set for event in self._chain())

    async def wait(self) -> None:
        """Wait until the scope is stopping, or one around it."""
        if self.is_set():
            await checkpoint()
            return
        rang = anyio.Event()
        with self.telling(rang.set):
            await rang.wait()

    def statistics(self) -> anyio.EventStatistics:
        """Return how many wait for it."""
        return anyio.EventStatistics(len(self._listeners))

    @property
    def over(self) -> bool:
        """Whether the event is set, and nothing is in progress that may still end."""
        return not self._in_progress and self.is_set()

    def explains(self, raised: BaseException | None) -> bool:
        """Return whether the block that an exception leaves only ends because it is stopping."""
        return raised is not None and self.is_set() and says_stopping(raised)

    def telling(self, listener: Callable[[], object]) -> Between:
        """Call a listener at each change while the block runs; it has to look what is true now."""
        return Between(partial(self.listen, listener), partial(self.leave, listener))

    def listen(self, listener: Callable[[], object]) -> None:
        """Call a listener at each change, until it leaves."""
        for event in self._chain():
            event._listeners.add(listener)
            event._thread = threading.get_ident()

    def leave(self, listener: Callable[[], object]) -> None:
        """Call a listener no more."""
        for event in self._chain():
            event._listeners.discard(listener)

    def in_progress(self) -> Between:
        """Note, while the block runs, that it may still end when the event is set."""
        return Between(self.begin, self.end)

    def begin(self) -> None:
        """Note that something begins which may still end when the event is set."""
        for event in self._chain():
            event._in_progress += 1

    def end(self) -> None:
        """Note that it ended."""
        for event in self._chain():
            event._in_progress -= 1
        if self.is_set():
            for event in self._chain():
                if event.over:
                    event._tell()

    def _chain(self) -> Iterator[Stopping]:
        event: Stopping | None = self
        while event is not None:
            yield event
            event = event._around

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()


def refusal() -> TaskCancelled:
    """Return the exception for what must not start any more; it is no error of a task."""
    error = TaskCancelled(REASON)
    error._of_stopping = True
    return error
