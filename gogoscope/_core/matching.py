"""Matching errors: by exception types, or by a predicate."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import Attribute

from gogoscope._core.arguments import shown
from gogoscope._core.callables import refuse_async
from gogoscope._core.errors import is_a
from gogoscope.exceptions import JobVersionError, RateLimitExceededError, RunError

Answer = TypeVar("Answer")

REFUSALS = (RateLimitExceededError, RunError, JobVersionError)
"""Errors that tell nothing of what was called: it was not."""

ErrorTypes = type[Exception] | tuple[type[Exception], ...]
Errors = ErrorTypes | Callable[[Exception], bool]


def check_errors(name: str, errors: object) -> None:
    """Refuse what is neither exception types nor a predicate.

    :raises TypeError: naming the argument
    """
    if callable(errors) and not isinstance(errors, type):
        if inspect.iscoroutinefunction(errors):
            raise TypeError(f"{name} must be a function that is not async, got {shown(errors)}")
        return
    for kind in errors if isinstance(errors, tuple) else (errors,):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            instead = "; write a tuple of them" if isinstance(errors, list | set) else ""
            raise TypeError(
                f"{name} must be exception types or a function of the error, "
                f"got {shown(errors)} of type {type(errors).__name__}{instead}"
            )


def errors(instance: object, attribute: Attribute[Any], value: Any) -> None:
    """Validate a field that matches errors."""
    check_errors(attribute.name, value)


def matches(
    name: str, errors: ErrorTypes | Callable[[Exception], Answer], error: Exception
) -> Answer | bool:
    """Return whether an error is of one of the types, or the answer of the predicate.

    :raises TypeError: if the predicate is async; names the argument
    """
    if isinstance(errors, type | tuple):
        return is_a(error, errors)
    answer = errors(error)
    refuse_async(name, errors, answer)
    return answer


def is_asked_for(errors: ErrorTypes | Callable[[Exception], Any], error: Exception) -> bool:
    """Return whether an error is no refusal of ours, or its class is named, or is left to code.

    ``Exception`` names no refusal: the class, or one between it and ``GogoscopeError``, does.
    """
    if not is_a(error, REFUSALS) or not isinstance(errors, type | tuple):
        return True
    kinds = errors if isinstance(errors, tuple) else (errors,)
    return any(issubclass(kind, REFUSALS) and is_a(error, kind) for kind in kinds)
