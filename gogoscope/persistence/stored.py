"""What is read from a store, checked before anything believes it.

Whoever can write to a file or a table can put anything there. So a record is made of what was read
only here, and only if each part is of the type that its field says. Anything else is a
:class:`~gogoscope.exceptions.CorruptRecordError` that names the key. The same checks stand before
a state that a caller sets, so that nobody writes what nobody can read.

The checks are made from the annotations of the record's class: a new field is checked by itself,
and one of a type that has no check is an error when the class is registered.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from attrs import fields

from gogoscope._core.arguments import shown
from gogoscope.events import log_warning
from gogoscope.exceptions import CorruptRecordError

Record = TypeVar("Record")
Check = Callable[[str, Any], None]
"""Raises a ``TypeError`` or a ``ValueError`` that begins with the name, unless the value is one."""

HIGHEST = 2**63 - 1


def corrupt_record(what: str, key: str, error: BaseException) -> CorruptRecordError:
    """Return the error for a record that cannot be understood.

    :param what: the kind of the record
    :param key: its whole key
    :param error: what is wrong with it
    """
    return CorruptRecordError(
        f"the stored {what} {shown(key)} cannot be understood: {type(error).__name__}: {error}"
    )


def leave_out(error: CorruptRecordError) -> None:
    """Log that a record is left out of a list, since it is corrupt."""
    log_warning("a corrupt record is left out", error=error)


def check_text(name: str, value: object) -> None:
    """Check that a value is a ``str`` that UTF-8 can hold.

    :raises TypeError: if it is none
    :raises ValueError: if it holds a surrogate
    """
    if type(value) is not str:
        raise TypeError(f"{name} must be a str, got {told(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} must be encodable as UTF-8, got {shown(value)}") from None


def check_integer(name: str, value: object) -> None:
    """Check that a value is an integer that every store can hold.

    :raises TypeError: if it is no ``int``
    :raises ValueError: if it is negative or has more than 63 bits
    """
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, got {told(value)}")
    if not 0 <= value <= HIGHEST:
        raise ValueError(f"{name} must be 0 or more and less than 2**63, got {shown(value)}")


def told(value: object) -> str:
    """Return what a message says of a value that is of the wrong type."""
    return f"{shown(value)} of type {type(value).__name__}"


def checks_of(record_type: type) -> dict[str, Check]:
    """Return the check of each field of an attrs class."""
    hints = get_type_hints(record_type)
    return {field.name: check_of(hints[field.name]) for field in fields(record_type)}


def check_fields(checks: Mapping[str, Check], record: object, name: str) -> None:
    """Check every field of a record.

    :param name: stands before the names of the fields in an error
    :raises TypeError: if one is of another type
    :raises ValueError: if one is out of range
    """
    for field, check in checks.items():
        check(f"{name}.{field}", getattr(record, field))


def check_of(hint: Any) -> Check:
    """Return the check of a field of a type."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (Union, types.UnionType) and len(parts) == 2 and parts[1] is type(None):
        return _or_none(check_of(parts[0]))
    if origin is Literal:
        return _one_of(parts)
    if origin is collections.abc.Mapping and parts[0] is str:
        return _mapping(check_of(parts[1]))
    raise TypeError(f"no check for a stored field of the type {hint}")


_PLAIN: dict[Any, Check] = {int: check_integer, str: check_text}


def _or_none(check: Check) -> Check:
    def check_or_none(name: str, value: object) -> None:
        if value is not None:
            check(name, value)

    return check_or_none


def _one_of(allowed: tuple[object, ...]) -> Check:
    def check_member(name: str, value: object) -> None:
        if type(value) is not str or value not in allowed:
            listing = ", ".join(map(str, allowed))
            raise ValueError(f"{name} must be one of {listing}, got {shown(value)}")

    return check_member


def _mapping(check: Check) -> Check:
    def check_mapping(name: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping, got {told(value)}")
        for key, part in value.items():
            try:
                check_text("a name", key)
                check("a part", part)
            except (TypeError, ValueError):
                # Only now: to name each part would cost more than to check it.
                check_text(f"the name {shown(key)} in {name}", key)
                check(f"{name}[{shown(key)}]", part)
                raise
            if not key:
                raise ValueError(f"the name {key!r} in {name} must not be empty")

    return check_mapping
