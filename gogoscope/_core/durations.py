"""Durations as the public API takes them: seconds, or a ``timedelta``.

A function checks a duration with :func:`seconds`. A field of an attrs class has a converter,
:func:`to_seconds` or :func:`to_seconds_or_none`, and the validator :func:`duration`, which knows
the name of the field.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from attrs import Attribute

from gogoscope._core.arguments import shown

LARGEST = sys.float_info.max
"""No ``float`` is larger, but an ``int`` may be."""


def seconds(
    name: str,
    value: float | timedelta,
    *,
    zero: bool = False,
    infinite: bool = False,
    maximum: float | None = None,
) -> float:
    """Return a duration as a ``float`` of seconds, or raise an error that names the argument.

    :param name: the argument's name, for the error
    :param value: seconds, or a ``timedelta``
    :param zero: whether 0 is allowed
    :param infinite: whether ``math.inf`` is allowed
    :param maximum: the longest duration allowed, in seconds
    :raises TypeError: if the value is not a duration
    :raises ValueError: if it is out of range
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{name} must be a number of seconds or a timedelta, got {shown(value)} "
            f"of type {type(value).__name__}"
        )
    if value > 0 or (zero and value == 0):
        if value > LARGEST and not (infinite and value == math.inf):
            raise ValueError(f"{name} must be a finite number of seconds, got {shown(value)}")
        if maximum is not None and value > maximum:
            raise ValueError(
                f"{name} must be at most {maximum:g} seconds, got {shown(value)}; "
                "durations are in seconds, not milliseconds"
            )
        return float(value)
    allowed = "0 or more" if zero else "more than 0"
    raise ValueError(f"{name} must be {allowed} seconds, got {shown(value)}")


def to_seconds(value: float | timedelta) -> float:
    """Convert a duration to seconds; anything else is left for :func:`duration` to refuse."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return value if value > LARGEST or value < -LARGEST else float(value)


def to_seconds_or_none(value: float | timedelta | None) -> float | None:
    """Convert an optional duration; a function with a name, so that type checkers know its type."""
    return None if value is None else to_seconds(value)


def duration(
    *, zero: bool = False, infinite: bool = False, maximum: float | None = None
) -> Callable[[object, Attribute[Any], Any], None]:
    """Return a validator for a field that is a duration in seconds.

    The parameters and the errors are those of :func:`seconds`.
    """

    def check(instance: object, attribute: Attribute[Any], value: Any) -> None:
        seconds(attribute.name, value, zero=zero, infinite=infinite, maximum=maximum)

    return check
