"""Checks of arguments, with errors that say what is allowed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from attrs import Attribute


def shown(value: object) -> str:
    """Return what a message shows of a value: its ``repr``, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the message that it is for must not be lost
        text = object.__repr__(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


LONGEST_SHOWN = 200
LARGEST_COUNT = 2**63 - 1


def encodable(text: str) -> str:
    """Return a text with escapes for its surrogates, which the file name of a script may have."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    """Return a text with escapes for what would control the terminal that shows it."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def check_reason(reason: object) -> None:
    """Refuse a reason of a cancellation that is no text.

    :raises TypeError: naming the argument
    """
    if reason is not None and not isinstance(reason, str):
        raise TypeError(
            f"reason must be a str or None, got {shown(reason)} of type {type(reason).__name__}"
        )


def check_observer(name: str, observer: object) -> None:
    """Refuse an observer that cannot be called, or that is async.

    :raises TypeError: naming the argument
    """
    if observer is not None and (not callable(observer) or inspect.iscoroutinefunction(observer)):
        raise TypeError(
            f"{name} must be a function that is not async, or None, got {observer!r} "
            f"of type {type(observer).__name__}"
        )


def observer(instance: object, attribute: Attribute[Any], value: Any) -> None:
    """Validate a field that is an observer."""
    check_observer(attribute.name, value)


def check_flag(name: str, value: object) -> None:
    """Refuse a flag that is no ``bool``.

    :raises TypeError: naming the argument
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {shown(value)} of type {type(value).__name__}")


def check_resource(value: object) -> None:
    """Refuse what is no async context manager.

    :raises TypeError: showing what to write instead
    """
    kind = type(value)
    if not hasattr(kind, "__aenter__"):
        usual = hasattr(kind, "__enter__")
        instead = "enter it with 'with'" if usual else "write s.enter(open_it(...))"
        raise TypeError(
            f"s.enter takes an async context manager, got {shown(value)} of type {kind.__name__}; "
            f"{instead}"
        )


def check_hashable(name: str, value: object) -> None:
    """Refuse a key that is not hashable.

    :raises TypeError: naming the argument
    """
    try:
        hash(value)
    except TypeError as error:
        kind = type(value).__name__
        raise TypeError(f"{name} must be hashable, got {shown(value)} of type {kind}") from error


def check_name(name: object) -> None:
    """Refuse a name that is not a ``str``.

    :raises TypeError: naming the argument
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r} of type {type(name).__name__}")


def check_priority(priority: float) -> None:
    """Refuse a priority that cannot be compared.

    :raises TypeError: if it is of another type than a number
    :raises ValueError: if it is NaN
    """
    if not isinstance(priority, int | float):
        kind = type(priority).__name__
        raise TypeError(f"priority must be a number, got {priority!r} of type {kind}")
    if math.isnan(priority):
        raise ValueError(f"priority must be a number that compares, got {priority!r}")


def check_count(name: str, value: int, minimum: int = 1) -> int:
    """Return an integer of at least ``minimum`` that every store can keep.

    :raises TypeError: if it is not an ``int``
    :raises ValueError: if it is too small, or has more than 63 bits
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {shown(value)} of type {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be {minimum} or more, got {value!r}")
    if value > LARGEST_COUNT:
        raise ValueError(f"{name} must be less than 2**63, got {shown(value)}")
    return value


def count(minimum: int = 1) -> Callable[[object, Attribute[Any], Any], None]:
    """Return a validator for a field that is an integer of at least ``minimum``."""

    def check(instance: object, attribute: Attribute[Any], value: Any) -> None:
        check_count(attribute.name, value, minimum)

    return check
