"""JSON-shaped values as stores keep them: exactly what was given, or an error that says where not.

What is read is equal to what was written, in value and in type. What JSON would change silently is
an error with the path to the part, such as ``value['tags'][2]``.
"""

from __future__ import annotations

import json
import math
from typing import Any, Protocol

from gogoscope.exceptions import CorruptRecordError

INT_DIGITS = 4300
"""The longest int, in decimal digits, that Python reads unless told otherwise."""
DEEPEST = 200
"""How deep lists and dicts may be nested, so that any reader has enough stack for them."""


class Codec(Protocol):
    """Turns a value into text and back."""

    def dumps(self, value: Any) -> str:
        """Return the text of a value.

        :raises TypeError: if the value cannot be stored faithfully
        :raises ValueError: likewise
        """
        ...

    def loads(self, text: str) -> Any:
        """Return the value of a text that ``dumps`` returned."""
        ...


class JSONCodec:
    """Stores None, bool, int, float, str, list and dict with str keys, and nothing else.

    A tuple, a key that is not a str, an object of a subclass and NaN are errors: JSON would change
    them silently.
    """

    def dumps(self, value: Any) -> str:
        """Return the JSON text of a value.

        :raises TypeError: if a part of it is not JSON-shaped; the message names its path
        :raises ValueError: if a part of it is a number or a structure that JSON cannot hold
        """
        check_value(value)
        return _encode(value)

    def loads(self, text: str) -> Any:
        """Return the value of a JSON text.

        :raises CorruptRecordError: if the text is not JSON
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptRecordError(f"a stored value is not JSON: {text[:80]!r}") from error


def check_value(value: Any) -> None:
    """Check that a value is JSON-shaped.

    :raises TypeError: if a part of it is not; the message names its path
    :raises ValueError: if a part of it is a number or a structure that JSON cannot hold
    """
    if type(value) not in _FAITHFUL:
        _check(value, "value", DEEPEST)


def is_storable(value: Any) -> bool:
    """Return whether a value is JSON-shaped: if it is not, that is why a store refused it."""
    try:
        check_value(value)
    except (TypeError, ValueError):
        return False
    return True


_FAITHFUL = (str, bool, type(None))
_INT_LIMIT = 10**INT_DIGITS
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _check(value: Any, path: str, levels: int) -> None:
    kind = type(value)
    if kind is int or kind is float:
        _check_number(value, path)
    elif levels == 0 and kind in (list, dict):
        raise ValueError(f"value is nested more than {DEEPEST} levels deep, or contains itself")
    elif kind is list:
        for index, item in enumerate(value):
            if type(item) not in _FAITHFUL:
                _check(item, f"{path}[{index}]", levels - 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(
                    f"{path} has the key {key!r} of type {type(key).__name__}; keys must be str"
                )
            if type(item) not in _FAITHFUL:
                _check(item, f"{path}[{key!r}]", levels - 1)
    else:
        raise TypeError(
            f"{path} is of type {kind.__name__}, which cannot be stored faithfully; allowed are "
            "None, bool, int, float, str, list and dict with str keys"
        )


def _check_number(value: float, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value!r}, which JSON cannot hold")
    elif not -_INT_LIMIT < value < _INT_LIMIT:
        raise ValueError(f"{path} is an int of more than {INT_DIGITS} digits")


def copied(value: Any) -> Any:
    """Return a copy of a value: of its lists and dicts, since its other parts cannot change."""
    kind = type(value)
    if kind is dict:
        return {
            key: copied(part) if type(part) in _CONTAINERS else part for key, part in value.items()
        }
    if kind is list:
        return [copied(part) if type(part) in _CONTAINERS else part for part in value]
    return value


_CONTAINERS = (dict, list)
