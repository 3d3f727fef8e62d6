"""Calls that share one outcome: while a task with a key runs, others join it.

The task that runs the function is nobody's handle: each call gets a :class:`Follower`, a second
outcome that is settled when the task ends. So a follower that is cancelled takes nothing from the
others; when the last one is cancelled, so is the task. All have the same result, so that reading
its error through one handle is reading it for all.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

from gogoscope._core.arguments import check_hashable
from gogoscope._core.cancellation import says_stopping
from gogoscope._core.errors import is_a
from gogoscope.events import OnError, TaskStarted
from gogoscope.exceptions import TaskCancelled
from gogoscope.scopes.results import Err
from gogoscope.scopes.task import Task
from gogoscope.scopes.unhandled import Unread

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Flight:
    """A task, and the outcomes that follow it, in the order in which they joined."""

    __slots__ = ("followers", "task")

    def __init__(self, task: Task[Any]) -> None:
        self.task = task
        self.followers: dict[Follower[Any], None] = {}


class Follower(Task[T_co]):
    """A handle of its own for the outcome of a task that others share."""

    def __init__(self, flight: Flight, name: str | None, on_error: OnError | None) -> None:
        task = flight.task
        super().__init__(task._parent, None, (), name or task.name, None, on_error)
        self._flight = flight

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``succeeded``, ``failed`` or ``cancelled``, for people."""
        return self._flight.task.state if self._result is None else super().state

    def _follow(self) -> None:
        """Join the task while it runs."""
        self._flight.task._attach()
        self._flight.followers[self] = None
        if self._home.observed:
            self._tell(TaskStarted)

    def _comes_from(self, task: Task[Any]) -> bool:
        return task is self._flight.task and task._runs_now()

    def _stop(self) -> None:
        """End as cancelled, at once; if it was the last, so does the task."""
        if self._result is None and self._cancel_requested:
            del self._flight.followers[self]
            try:
                self._settle_cancelled()
            finally:
                self._flight.task._detach(abandoned=True)

    def _age(self) -> float:
        return self._flight.task._age()

    def _land(self) -> None:
        """Take over the outcome of the shared task."""
        shared = self._flight.task
        result = shared._result
        assert result is not None
        self._interrupted = shared._interrupted
        del self._flight.followers[self]
        try:
            if isinstance(result, Err) and shared._was_cancelled:
                error = result._unread
                if is_a(error, TaskCancelled) and not says_stopping(error):
                    self._cancel_requested = True
                    self._cancel_reason = error.reason
                    self._settle_cancelled()
                else:
                    self._settle_cancelled(error)
            else:
                self._conclude(result, None)
        finally:
            shared._detach(abandoned=False)


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
        """Return a handle for the outcome of the task with a key, if one runs.

        :raises TypeError: if the key is not hashable
        """
        check_hashable("dedupe", key)
        flight = self._flights.get(key)
        if flight is None or flight.task._cancel_requested:
            return None
        follower: Follower[Any] = Follower(flight, name, on_error)
        follower._follow()
        return follower

    def share(
        self, key: Hashable, task: Task[T], name: str | None, on_error: OnError | None
    ) -> Follower[T]:
        """Return a handle for the outcome of a task, which others join while it runs."""
        flight = Flight(task)
        follower: Follower[T] = Follower(flight, name, on_error)
        if task.done:  # its scope is cancelled
            follower._end_cancelled(task._parent._why_cancelled())
        else:
            self._flights[key] = flight
            task._watcher = lambda: self._land(key, flight)
            follower._follow()
        return follower

    def _land(self, key: Hashable, flight: Flight) -> None:
        flight.task._watcher = None
        if self._flights.get(key) is flight:
            del self._flights[key]
        result = flight.task._result
        unread = result._watch if isinstance(result, Err) else None
        if isinstance(unread, Unread):
            for follower in flight.followers:
                unread.shared_by(follower)
        for follower in list(flight.followers):
            if follower in flight.followers:  # not cancelled by what another one woke
                follower._land()
        if isinstance(unread, Unread) and not unread.awaited:
            unread.taken()
