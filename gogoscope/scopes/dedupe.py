"""Calls that share one outcome: while a task with a key runs, others join it.

The task that runs the function is nobody's handle: each call gets a :class:`Follower`, a second
outcome that is settled when the task ends. So a follower that is cancelled takes nothing from the
others; when the last one is cancelled, so is the task.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any, TypeVar

from gogoscope.events import OnError
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.results import Err
from gogoscope.scopes.task import Task

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Flight:
    """A task, and the outcomes that follow it."""

    __slots__ = ("followers", "task")

    def __init__(self, task: Task[Any]) -> None:
        self.task = task
        self.followers: set[Follower[Any]] = set()


class Follower(Task[T_co]):
    """A handle of its own for the outcome of a task that others share."""

    __slots__ = ("_flight",)

    def __init__(self, flight: Flight, name: str | None, on_error: OnError | None) -> None:
        task = flight.task
        super().__init__(task._parent, None, (), name or task.name, None, on_error)
        self._flight = flight
        self._began = time.monotonic()
        task._attach()
        flight.followers.add(self)

    def _comes_from(self, task: Task[Any]) -> bool:
        return task is self._flight.task and task._runs_now()

    def _stop(self) -> None:
        """End as cancelled, at once; if it was the last, so does the task."""
        if self._result is None and self._cancel_requested:
            self._settle_cancelled()
            self._leave(abandoned=True)

    def _end_unless_begun(self) -> None:
        """Do nothing: the shared task ends it."""

    def _land(self) -> None:
        """Take over the outcome of the shared task."""
        shared = self._flight.task
        self._interrupted = shared._interrupted
        result = shared._result
        assert result is not None
        if result.error is None:
            self._settle(result)
        elif shared._was_cancelled:
            assert isinstance(result.error, TaskCancelled)
            self._cancel_requested = True
            self._cancel_reason = result.error.reason
            self._settle_cancelled()
        else:
            self._settle(Err(result.error, None))
        self._leave(abandoned=False)

    def _leave(self, *, abandoned: bool) -> None:
        self._flight.followers.discard(self)
        self._flight.task._detach(abandoned=abandoned)


class Dedupe:
    """The flights of one scope, by their keys."""

    __slots__ = ("_flights",)

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(
        self, key: Hashable, name: str | None, on_error: OnError | None
    ) -> Follower[Any] | None:
        """Return a handle for the outcome of the task with a key, if one runs."""
        flight = self._flights.get(key)
        if flight is None or flight.task._cancel_requested:
            return None
        return Follower(flight, name, on_error)

    def share(
        self, key: Hashable, task: Task[T], name: str | None, on_error: OnError | None
    ) -> Follower[T]:
        """Return a handle for the outcome of a task, which others join while it runs."""
        flight = Flight(task)
        follower: Follower[T] = Follower(flight, name, on_error)
        if task.done:
            follower._land()
        else:
            self._flights[key] = flight
            task._watcher = lambda: self._land(key, flight)
        return follower

    def _land(self, key: Hashable, flight: Flight) -> None:
        flight.task._watcher = None
        if self._flights.get(key) is flight:
            del self._flights[key]
        for follower in list(flight.followers):
            follower._land()
