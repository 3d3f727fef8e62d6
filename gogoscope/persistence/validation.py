"""Checks of the arguments that every store takes, with errors that say what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from gogoscope._core.durations import seconds

PREFIX_SEPARATORS = ":/.|#"
MAX_LEASE = 12 * 3600.0
MAX_TTL = 100 * 366 * 86400.0
TOLD_BY_EVERY_LOCK = ("host", "pid", "scope")


def check_key(key: str, name: str = "key") -> str:
    """Return a valid key.

    :raises TypeError: if it is not a ``str``
    :raises ValueError: if it is empty or holds a lone surrogate, which no store can encode
    """
    if not isinstance(key, str):
        raise TypeError(f"{name} must be a str, got {key!r} of type {type(key).__name__}")
    if not key:
        raise ValueError(f"{name} must not be empty, got {key!r}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be encodable as UTF-8, got {key!r}") from None
    return key


def check_keys(keys: Iterable[str]) -> list[str]:
    """Return valid keys, each once.

    :raises TypeError: if one is not a ``str``, or if they are one ``str`` or no iterable
    :raises ValueError: if one is empty or cannot be encoded
    """
    if isinstance(keys, str):
        raise TypeError(f"keys must be an iterable of str, got the str {keys!r}; write [{keys!r}]")
    if not isinstance(keys, Iterable):
        raise TypeError(
            f"keys must be an iterable of str, got {keys!r} of type {type(keys).__name__}"
        )
    return list(dict.fromkeys(check_key(key) for key in keys))


def check_mapping(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give back a mapping of keys to values.

    :raises TypeError: if it is none
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            f"values must be a mapping of keys to values, got {values!r} of type "
            f"{type(values).__name__}"
        )
    return values


def check_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of what a lock is to tell people about its holder.

    :raises TypeError: if it is no mapping of texts to texts
    :raises ValueError: if it names what every lock tells
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(
            f"metadata must be a mapping, got {metadata!r} of type {type(metadata).__name__}"
        )
    for name, value in metadata.items():
        if not isinstance(name, str):
            raise TypeError(
                f"metadata must have names of type str, got {name!r} of type {type(name).__name__}"
            )
        if name in TOLD_BY_EVERY_LOCK:
            raise ValueError(
                f"metadata must not have {name!r}, got {value!r}: every lock tells 'host', 'pid' "
                "and 'scope' by itself"
            )
        if not isinstance(value, str):
            raise TypeError(
                f"metadata[{name!r}] must be a str, got {value!r} of type {type(value).__name__}"
            )
    return dict(metadata)


def check_key_prefix(prefix: str) -> str:
    """Return a valid key prefix: empty, or ending with a separator so that prefixes nest.

    :raises TypeError: if it is not a ``str``
    :raises ValueError: if it does not end with one of ``: / . | #``
    """
    if not isinstance(prefix, str):
        raise TypeError(f"key_prefix must be a str, got {prefix!r} of type {type(prefix).__name__}")
    if prefix:
        check_key(prefix, "key_prefix")
        if prefix[-1] not in PREFIX_SEPARATORS:
            raise ValueError(
                f"key_prefix must end with one of {' '.join(PREFIX_SEPARATORS)} so that it never "
                f"covers another prefix by chance, got {prefix!r}"
            )
    return prefix


def check_ttl(ttl: float | timedelta) -> float:
    """Return a time to live in seconds.

    :raises TypeError: if it is not a duration
    :raises ValueError: if it is not more than 0 and at most 100 years
    """
    return seconds("ttl", ttl, maximum=MAX_TTL)


def check_stale(stale: float | timedelta) -> float:
    """Return the seconds for which a value is kept beyond its time.

    :raises TypeError: if it is not a duration
    :raises ValueError: if it is not at least 0 and at most 100 years
    """
    return seconds("stale", stale, zero=True, maximum=MAX_TTL)


def check_lease(ttl: float | timedelta) -> float:
    """Return the time to live of a lease in seconds: more than 0, at most 12 hours.

    :raises TypeError: if it is not a duration
    :raises ValueError: if it is out of range
    """
    return seconds("ttl", ttl, maximum=MAX_LEASE)


def literal_start(pattern: str) -> str:
    """Return the part of a glob before its first wildcard, which every match starts with."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def glob_matcher(pattern: str | None) -> Callable[[str], bool]:
    """Return a predicate for a case-sensitive glob over whole keys.

    ``*`` matches any run of characters and ``?`` any one; every other character is literal.
    ``None`` matches every key.

    :raises TypeError: if the pattern is neither a ``str`` nor ``None``
    """
    if pattern is None:
        return lambda key: True
    if not isinstance(pattern, str):
        raise TypeError(
            f"pattern must be a str or None, got {pattern!r} of type {type(pattern).__name__}"
        )
    wildcards = {"*": ".*", "?": "."}
    expression = "".join(wildcards.get(char) or re.escape(char) for char in pattern)
    match = re.compile(expression, re.DOTALL).fullmatch
    return lambda key: match(key) is not None
