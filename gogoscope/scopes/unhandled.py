"""Errors of tasks that nobody has looked at."""

from __future__ import annotations

from typing import Any

from gogoscope.scopes.task import Task

KEPT_WHOLE = 100


class UnseenErrors:
    """The errors that a scope raises at its end unless somebody looks at them before.

    The first hundred are kept whole, further ones are counted.
    """

    __slots__ = ("_counted", "_kept")

    def __init__(self) -> None:
        self._kept: dict[Task[Any], Exception] = {}
        self._counted = 0

    def add(self, task: Task[Any], error: Exception) -> None:
        """Remember that nobody looked at the error of a task."""
        if len(self._kept) < KEPT_WHOLE:
            self._kept[task] = error
        else:
            self._counted += 1
        task.unseen = True

    def seen(self, task: Task[Any]) -> None:
        """Forget the error of a task: somebody looked at it."""
        if self._kept.pop(task, None) is None:
            self._counted -= 1
        task.unseen = False

    def take(self) -> tuple[list[Exception], int]:
        """Return the errors kept whole and the number of further ones, and forget them."""
        errors, counted = list(self._kept.values()), self._counted
        self._kept, self._counted = {}, 0
        return errors, counted


def group_of(errors: list[Exception], further: int, scope: str) -> ExceptionGroup[Exception]:
    """Return the exception that a block ends with for the errors that nobody looked at."""
    number = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    more = f" and {further} more, not kept," if further else ""
    return ExceptionGroup(
        f"{number}{more} of tasks of scope {scope!r} that nobody looked at", errors
    )
