"""Kinds of records: how a record becomes text and a record again, and when it is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from attrs import Attribute, fields, frozen, has

from gogoscope._core.arguments import shown
from gogoscope.persistence.stored import check_of, corrupt_record, told
from gogoscope.persistence.values import decode_json

Record = TypeVar("Record")


@frozen(eq=False)
class Kind(Generic[Record]):
    """A kind of record: its name, how it becomes text and a record again, and when it is gone.

    ``purge_at_ms(record, now_ms)`` is the time from which on nobody needs the record, ``None`` for
    never. ``dump`` returns no empty text: that is what a place has of a record that was removed.
    ``load`` takes the text that ``dump`` returned, and that time; it may raise anything for any
    other text. ``marks`` returns what the conditions of a caller's transaction name. ``awaited``
    says of a record whether those who wait for it shall look now, such as whether a lease is free;
    there is none where nobody waits.
    """

    name: str
    dump: Callable[[Record], str]
    load: Callable[[str, int | None], Record]
    purge_at_ms: Callable[[Record, int], int | None]
    marks: Callable[[Record], Mapping[str, str | int]] | None = None
    awaited: Callable[[Record], bool] | None = None

    def tells(self, record: Record | None) -> bool:
        """Return whether those who wait shall look now that a record was written, or removed."""
        return self.awaited is not None and (record is None or self.awaited(record))

    def restore(self, key: str, text: object, purge_at_ms: object) -> Record:
        """Return the record of what a place has kept, which may have been changed by anybody.

        :param key: its key, for the error
        :param text: what ``dump`` had returned, as a ``str`` or in UTF-8
        :param purge_at_ms: its purge time
        :raises CorruptRecordError: naming the key, if they are not what the record was written as
        """
        try:
            return self.load(_text(text), _time(purge_at_ms))
        except Exception as error:
            raise corrupt_record(self.name, key, error) from error


def _text(stored: object) -> str:
    if type(stored) is bytes:
        return stored.decode()
    if type(stored) is not str:
        raise TypeError(f"its text must be a str, got {told(stored)}")
    return stored


def _time(stored: object) -> int | None:
    if stored is not None and type(stored) is not int:
        raise TypeError(f"its purge time must be an int, got {told(stored)}")
    return stored


def json_kind(
    name: str,
    record_type: type[Record],
    purge_at_ms: Callable[[Record, int], int | None],
    *,
    marks: Callable[[Record], Mapping[str, str | int]] | None = None,
    awaited: Callable[[Record], bool] | None = None,
) -> Kind[Record]:
    """Return the kind of an attrs class.

    Its fields are JSON-shaped, such classes themselves, or mappings of names to such classes.
    Fields at their default are left out.

    :param name: what the kind is called in a store
    :param record_type: the class
    :param purge_at_ms: as in :class:`Kind`
    :param marks: likewise
    :param awaited: likewise
    """
    form = _Form(record_type)
    # The newest records by their text: who changes a record mostly finds what it wrote itself.
    known: dict[str, Record] = {}

    def dump(record: Record) -> str:
        text = _encode(form.dump(record))
        if len(text) <= LONGEST_KNOWN:
            if len(known) >= MOST_KNOWN:
                known.clear()
            known[text] = record
        return text

    def load(text: str, purge_at_ms: int | None) -> Record:
        record = known.get(text)
        return form.load(decode_json(text)) if record is None else record

    return Kind(name, dump, load, purge_at_ms, marks, awaited)


MOST_KNOWN = 64
LONGEST_KNOWN = 10_000
"""How many characters a text has at most that is kept: the results of runs may be very large."""


class _Form:
    """How the records of an attrs class become JSON, and those inside their fields likewise."""

    def __init__(self, record_type: type) -> None:
        self._type = record_type
        hints = get_type_hints(record_type)
        parts = fields(record_type)
        inner = {name: _form_of(hint) for name, hint in hints.items()}
        self._inner = {name: form for name, form in inner.items() if form is not None}
        self._checks = {
            part.name: check_of(hints[part.name]) for part in parts if part.name not in self._inner
        }
        self._defaults = [(part.name, _default_of(part)) for part in parts]

    def dump(self, record: Any) -> dict[str, Any]:
        found = {
            field: value
            for field, default in self._defaults
            if (value := getattr(record, field)) != default
        }
        for field, form in self._inner.items():
            if field in found:
                found[field] = form.dump(found[field])
        return found

    def load(self, stored: Any) -> Any:
        if type(stored) is not dict:
            raise TypeError(f"{self._type.__name__} must be an object, got {told(stored)}")
        for field, value in stored.items():
            if field in self._inner:
                stored[field] = self._inner[field].load(value)
            elif field in self._checks:
                self._checks[field](field, value)
            else:
                raise TypeError(f"{self._type.__name__} has no field {shown(field)}")
        return self._type(**stored)


class _FormOfEach:
    """How a mapping of names to records becomes JSON; it keeps its order."""

    def __init__(self, form: _Form) -> None:
        self._form = form

    def dump(self, records: Any) -> dict[str, Any]:
        return {name: self._form.dump(record) for name, record in records.items()}

    def load(self, stored: Any) -> Any:
        if type(stored) is not dict:
            raise TypeError(f"a mapping must be an object, got {told(stored)}")
        return {name: self._form.load(record) for name, record in stored.items()}


def _form_of(hint: Any) -> _Form | _FormOfEach | None:
    if has(hint):
        return _Form(hint)
    parts = get_args(hint)
    if get_origin(hint) is Mapping and parts[0] is str and has(parts[1]):
        return _FormOfEach(_Form(parts[1]))
    return None


def _default_of(part: Attribute[Any]) -> object:
    factory = getattr(part.default, "factory", None)
    return part.default if factory is None else factory()


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
