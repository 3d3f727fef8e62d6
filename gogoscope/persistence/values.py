"""JSON-shaped values as stores keep them: faithful, or refused with the path of what is not."""

from __future__ import annotations

import json
import math
from typing import Any, Protocol

from gogoscope.exceptions import CorruptRecordError


class Codec(Protocol):
    """Turns a value into text and back."""

    def dumps(self, value: Any) -> str:
        """Give the text of a value.

        :raises TypeError: if the value cannot be stored faithfully
        :raises ValueError: likewise
        """
        ...

    def loads(self, text: str) -> Any:
        """Give the value of a text that ``dumps`` gave."""
        ...


class JSONCodec:
    """Stores None, bool, int, float, str, list and dict with str keys, and nothing else.

    What JSON would silently change (a tuple, a key that is not a str, a subclass, NaN) is refused.
    """

    def dumps(self, value: Any) -> str:
        """Give the JSON text of a value.

        :raises TypeError: if a part of it is not JSON-shaped; the message names its path
        :raises ValueError: if a part of it is a number or a structure that JSON cannot hold
        """
        try:
            _check(value, "value")
            return _encode(value)
        except RecursionError:
            raise ValueError("value is nested too deeply, or contains itself") from None

    def loads(self, text: str) -> Any:
        """Give the value of a JSON text.

        :raises CorruptRecordError: if the text is not JSON
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptRecordError(f"a stored value is not JSON: {text[:80]!r}") from error


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _check(value: Any, path: str) -> None:
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is int:
        return
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value!r}, which JSON cannot hold")
    elif kind is list:
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(
                    f"{path} has the key {key!r} of type {type(key).__name__}; keys must be str"
                )
            _check(item, f"{path}[{key!r}]")
    else:
        raise TypeError(
            f"{path} is of type {kind.__name__}, which cannot be stored faithfully; allowed are "
            "None, bool, int, float, str, list and dict with str keys"
        )
