"""JSON-shaped values as stores keep them: exactly what was given, or an error that says where not.

What is read is equal to what was written, in value and in type. What JSON would change silently is
an error with the path to the part, such as ``value['tags'][2]``.
"""

from __future__ import annotations

import json
import math
from typing import Any, Protocol

from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence.stored import check_text, corrupt_record

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
    them silently. So are surrogates, which UTF-8 cannot hold.
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
            return decode_json(text)
        except (ValueError, RecursionError) as error:
            raise CorruptRecordError(f"a stored value is not JSON: {text[:80]!r}") from error


def decoded(codec: Codec, text: Any, key: str) -> Any:
    """Return the value of a stored text.

    :param key: the whole key of the value, for the error
    :raises CorruptRecordError: naming the key, whatever the codec raises
    """
    try:
        return codec.loads(text)
    except Exception as error:
        raise corrupt_record("value", key, error) from error


def decode_json(text: str) -> Any:
    """Return what a text of standard JSON stands for.

    :raises ValueError: if it is something else, NaN and Infinity included
    """
    return _decode(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_codec(codec: Codec | None) -> Codec:
    """Return a codec that is one; JSON if there is none.

    :raises TypeError: naming the argument
    """
    if codec is None:
        return JSONCodec()
    if not (callable(getattr(codec, "dumps", None)) and callable(getattr(codec, "loads", None))):
        raise TypeError(
            f"codec must be an object with dumps() and loads(), got one of type "
            f"{type(codec).__name__}"
        )
    return codec


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


_FAITHFUL = (bool, type(None))
_INT_LIMIT = 10**INT_DIGITS
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _check(value: Any, path: str, levels: int) -> None:
    kind = type(value)
    if kind is str:
        check_text(path, value)
    elif kind is int or kind is float:
        _check_number(value, path)
    elif kind is not list and kind is not dict:
        raise TypeError(
            f"{path} is of type {kind.__name__}, which cannot be stored faithfully; allowed are "
            "None, bool, int, float, str, list and dict with str keys"
        )
    elif levels == 0:
        raise ValueError(f"value is nested more than {DEEPEST} levels deep, or contains itself")
    elif kind is list:
        _check_list(value, path, levels - 1)
    else:
        _check_dict(value, path, levels - 1)


def _check_list(value: list[Any], path: str, levels: int) -> None:
    for index, item in enumerate(value):
        kind = type(item)
        if kind not in _FAITHFUL and not (kind is str and item.isascii()):
            _check(item, f"{path}[{index}]", levels)


def _check_dict(value: dict[Any, Any], path: str, levels: int) -> None:
    for key, item in value.items():
        if type(key) is not str:
            raise TypeError(
                f"{path} has the key {key!r} of type {type(key).__name__}; keys must be str"
            )
        if not key.isascii():
            check_text(f"a key in {path}", key)
        kind = type(item)
        if kind not in _FAITHFUL and not (kind is str and item.isascii()):
            _check(item, f"{path}[{key!r}]", levels)


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
