"""Checks of the arguments that every store takes, with errors that say what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from attrs import evolve

from gogoscope._core.arguments import shown
from gogoscope._core.durations import seconds
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.persistence.stored import check_fields, check_text, checks_of, told

PREFIX_SEPARATORS = ":/.|#"
MAX_LEASE = 12 * 3600.0
MAX_PLAIN_LEASE = 3600.0
SHORTEST_LEASE = 0.001
"""Stores count leases in milliseconds; a shorter one is over before anybody knows of it."""
MAX_TTL = 100 * 366 * 86400.0
CIRCUIT_CHECKS = checks_of(CircuitBreakerState)
TOLD_BY_EVERY_LOCK = ("host", "pid", "scope")


def check_key(key: str, name: str = "key") -> str:
    """Return a valid key.

    :raises TypeError: if it is not a ``str``
    :raises ValueError: if it is empty, or holds a NUL or a lone surrogate, which not every store
        can keep
    """
    if not isinstance(key, str):
        raise TypeError(f"{name} must be a str, got {shown(key)} of type {type(key).__name__}")
    if not key:
        raise ValueError(f"{name} must not be empty, got {key!r}")
    if "\0" in key:
        raise ValueError(f"{name} must not contain NUL, got {key!r}")
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
    :raises ValueError: if it names what every lock tells, or holds a text that UTF-8 cannot hold
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
        check_key(name, "a name in metadata")
        if name in TOLD_BY_EVERY_LOCK:
            raise ValueError(
                f"metadata must not have {name!r}, got {value!r}: every lock tells 'host', 'pid' "
                "and 'scope' by itself"
            )
        check_text(f"metadata[{name!r}]", value)
    return dict(metadata)


def check_circuit_state(state: CircuitBreakerState) -> CircuitBreakerState:
    """Return a copy of a circuit's state that every store can write and read.

    :raises TypeError: if it, or a part of it, is of another type
    :raises ValueError: if it names no state, or a number is negative or has more than 64 bits
    """
    if not isinstance(state, CircuitBreakerState):
        raise TypeError(f"state must be a CircuitBreakerState, got {told(state)}")
    check_fields(CIRCUIT_CHECKS, state, "state")
    return evolve(state, reporters=dict(state.reporters), probes=dict(state.probes))


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


def check_ttl(ttl: float | timedelta, name: str = "ttl") -> float:
    """Return a time to live in seconds.

    :raises TypeError: if it is not a duration
    :raises ValueError: if it is not more than 0 and at most 100 years
    """
    return seconds(name, ttl, maximum=MAX_TTL)


def check_stale(stale: float | timedelta) -> float:
    """Return the seconds for which a value is kept beyond its time.

    :raises TypeError: if it is not a duration
    :raises ValueError: if it is not at least 0 and at most 100 years
    """
    return seconds("stale", stale, zero=True, maximum=MAX_TTL)


def check_max_clock_skew(skew: float | timedelta) -> float:
    """Return the largest difference between two clocks in seconds.

    :raises TypeError: if it is not a duration
    :raises ValueError: if it is not at least 0 and at most 100 years
    """
    return seconds("max_clock_skew", skew, zero=True, maximum=MAX_TTL)


def check_lease(ttl: float | timedelta, name: str = "ttl") -> float:
    """Return the time to live of a lease in seconds: a millisecond at least, at most 12 hours.

    A plain number is at most 3,600: a longer one is likely to be meant as milliseconds, and would
    let a dead holder block the lock for hours.

    :raises TypeError: if it is not a duration
    :raises ValueError: if it is out of range
    """
    is_plain = not isinstance(ttl, timedelta)
    lease = seconds(name, ttl) if is_plain else seconds(name, ttl, maximum=MAX_LEASE)
    if lease < SHORTEST_LEASE:
        raise ValueError(f"{name} must be {SHORTEST_LEASE:g} seconds or more, got {ttl!r}")
    if is_plain and lease > MAX_PLAIN_LEASE:
        raise ValueError(
            f"{name} must be at most {MAX_PLAIN_LEASE:g} if it is a plain number, got {ttl!r}; "
            "durations are in seconds, not milliseconds; pass a longer one, of up to 12 hours, as "
            "a timedelta"
        )
    return lease


def literal_start(pattern: str) -> str:
    """Return the part of a glob before its first wildcard, which every match starts with."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def glob_matcher(pattern: str | None) -> Callable[[str], bool]:
    """Return a predicate for a case-sensitive glob over whole keys.

    ``*`` matches any run of characters and ``?`` any one; every other character is literal.
    ``None`` matches every key. Nothing matches the empty string, which is no key: so a store with a
    prefix does not list what another keeps under that very prefix.

    :raises TypeError: if the pattern is neither a ``str`` nor ``None``
    :raises ValueError: if it holds a NUL or a lone surrogate, which no key does
    """
    if pattern is None:
        return bool
    if not isinstance(pattern, str):
        raise TypeError(
            f"pattern must be a str or None, got {pattern!r} of type {type(pattern).__name__}"
        )
    if pattern:
        check_key(pattern, "pattern")
    first, *others = (
        "".join("." if char == "?" else re.escape(char) for char in part)
        for part in re.split(r"\*+", pattern)
    )
    if others:
        # What stands between two stars is looked for once, where it comes first: a later place
        # would leave less for the rest. Without that, the time doubles with each star.
        *middle, last = others
        first += "".join(f"(?>.*?{part})" for part in middle) + ".*" + last
    match = re.compile(first, re.DOTALL).fullmatch
    return lambda key: key != "" and match(key) is not None
