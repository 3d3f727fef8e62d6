"""What the threads of this process hold or run, so that none of them waits for itself."""

from __future__ import annotations

from collections.abc import Callable
from threading import local

from attrs import define

from gogoscope._core.between import Between
from gogoscope._core.forks import after_fork
from gogoscope.blocking.hosts import Hosts
from gogoscope.exceptions import RunError


@define(eq=False)
class Mark:
    """Says that a thread holds something, or runs it, until that has ended.

    :param what: what is held: the store, its kind, its key, and the thread
    :param over: whether it has ended, whatever the thread knows of that
    """

    what: tuple[str, str, str, object]
    over: Callable[[], bool] = bool  # that is, not yet

    def times_held(self) -> int:
        """Return how many times the thread holds the same."""
        return sum(one.what == self.what and not one.over() for one in _marks)

    def add(self) -> None:
        """Note that it begins."""
        _marks.append(self)

    def remove(self) -> None:
        """Note that it has ended."""
        if self in _marks:  # in a process that was forked meanwhile it is not
            _marks.remove(self)


class _Thread(local):
    """What stands for the calling thread; no later thread has the same, as it may its number."""

    def __init__(self) -> None:
        self.itself = object()


_calling = _Thread()
_marks: list[Mark] = []
"""What the threads of this process hold, once for each time."""

after_fork(_marks.clear)


def marked(hosts: Hosts, what: str, key: str) -> Mark:
    """Return what would say that the calling thread holds something."""
    return Mark((hosts.options.url, what, key, _calling.itself))


def refuse_run_in_itself(mark: Mark) -> None:
    """Refuse a run that the same thread runs already.

    :raises RunError: waiting for it would never end
    """
    if mark.times_held():
        raise RunError(mark.what[2], "it would wait for itself: this code is part of it")


def running(mark: Mark) -> Between:
    """Note that the calling thread runs something.

    :raises RunError: if it does already
    """
    refuse_run_in_itself(mark)
    return Between(mark.add, mark.remove)
