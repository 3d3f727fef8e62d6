"""Errors of tasks that nobody handled."""

from __future__ import annotations

from typing import Any

from gogoscope._core.background import Observer
from gogoscope._core.cancellation import split_cancellation
from gogoscope._core.errors import annotate, description
from gogoscope.events import ErrorUnseen, log_error
from gogoscope.scopes.outcome import Outcome

KEPT_WHOLE = 100


class Unhandled:
    """The errors that a scope raises at its end unless somebody handles them before.

    The first hundred are kept whole, further ones are counted.
    """

    __slots__ = ("_counted", "_kept")

    def __init__(self) -> None:
        self._kept: dict[Outcome[Any], Exception] = {}
        self._counted = 0

    def add(self, outcome: Outcome[Any], error: Exception) -> None:
        """Keep the error of an outcome that nobody handled."""
        if len(self._kept) < KEPT_WHOLE:
            self._kept[outcome] = error
        else:
            self._counted += 1
        outcome._unhandled = True

    def retrieved(self, outcome: Outcome[Any]) -> None:
        """Forget the error of an outcome, since somebody handles it."""
        if self._kept.pop(outcome, None) is None:
            self._counted -= 1
        outcome._unhandled = False

    def take(self) -> tuple[list[Exception], int]:
        """Return the errors kept whole and the number of further ones, and forget them."""
        # Handles of one deduplicated task have the same error.
        errors = list({id(error): error for error in self._kept.values()}.values())
        counted = self._counted
        self._kept, self._counted = {}, 0
        return errors, counted


def group_of(errors: list[Exception], further: int, scope: str) -> ExceptionGroup[Exception] | None:
    """Return the exception that a block ends with for its unhandled errors, if there are any."""
    if not errors:
        return None
    number = "1 unhandled error" if len(errors) == 1 else f"{len(errors)} unhandled errors"
    more = f" and {further} more, not kept," if further else ""
    return ExceptionGroup(f"{number}{more} of tasks of scope {scope!r}", errors)


def report(home: Observer, leaving: BaseException, errors: list[Exception], further: int) -> None:
    """Tell of unhandled errors that are not raised, since another exception leaves the scope.

    They are added to it as notes (to a cancellation not), logged, and sent as events.
    """
    noted = split_cancellation(leaving)[0] is None
    for error in errors:
        if error is leaving:
            continue
        if noted:
            annotate(
                leaving, f"unhandled error of a task of scope {home.name!r}: {description(error)}"
            )
        tell(home, error)
    if further:
        log_error("%d more errors of scope %r were not handled", further, home.name)


def tell(home: Observer, error: Exception) -> None:
    """Log an error that nobody will see otherwise, and send it as an event."""
    log_error("an error of scope %r was not handled", home.name, error=error)
    home.emit(ErrorUnseen(home.name, error))
