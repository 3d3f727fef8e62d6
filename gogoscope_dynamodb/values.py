"""Writes of cached values: each is applied once, and undoes nothing that others wrote since.

Every write of a value has a stamp: a version that is higher than that of all writes that the
process knows to be earlier, and the name of the write. A write replaces only what has a lower
version. So one that lands late, or is sent again, finds what was written since and is refused.
When it is refused although no try of it can have been applied, the clock that made the other stamp
is ahead: it is sent again with a higher version.

A deletion leaves a grave for an hour: an item without a value, with a stamp. Otherwise a write that
was applied, read, and then deleted would be applied again when its answer was lost.

In doubt, the item that a refusal shows is one of these:

- It has the name of this write: it was applied.
- It is certainly newer. This write was applied and then replaced, or would have been: both look
  the same to everybody.
- Anything else: nobody can tell, and ``StoreTimeoutError`` says so.

That is why nothing is written by BatchWriteItem, whose writes have no conditions.

Mutable state: the number of the last stamp of this process.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, field, frozen

from gogoscope.exceptions import CorruptRecordError, StoreTimeoutError, ThrottledError
from gogoscope.persistence import process_name
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.answers import Update
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import Item, number, text

MOST_ROUNDS = 8
GRAVE_MS = 3_600_000

_numbers = itertools.count(1)

_OLDER = "#version < :version"
_LIVE = (
    f"attribute_exists(#data.#json) AND {_OLDER} "
    "AND (attribute_not_exists(#data.#until) OR #data.#until > :now)"
)
_STAMPED = "#version = :version, #data.#by = :by"
_TOUCH = Update(
    f"SET {_STAMPED}, #data.#until = :until, "
    "#expiresAt = :ttl + if_not_exists(#data.#keptSeconds, :zero)",
    _LIVE,
)
_TOUCH_FOR_EVER = Update(f"SET {_STAMPED} REMOVE #data.#until, #expiresAt", _LIVE)
_BURY = Update(
    "SET #version = :version, #data = :grave, #was = if_not_exists(#data.#until, :never), "
    "#expiresAt = :ttl",
    f"attribute_exists(#pk) AND attribute_not_exists(#was) AND {_OLDER}",
    "ALL_OLD",
)
_NO_VALUE = (
    "(#data.#until <= :now OR (attribute_not_exists(#data.#until) AND #expiresAt <= :nowSeconds))"
)
_NAMES = {f"#{name}": name for name in ("pk", "version")}
_NO_VALUE_NAMES = _NAMES | {f"#{name}": name for name in ("data", "until", "expiresAt")}


@frozen
class Stamp:
    """The version of a write, and its name, which begins with that of the process."""

    version: int
    number: int = field(factory=lambda: next(_numbers))

    @property
    def name(self) -> str:
        """The name of the write."""
        return f"{process_name()[:8]}{self.number:08x}"

    def above(self, version: int) -> Stamp:
        """Return a stamp for the same write that replaces an item of a version."""
        return evolve(self, version=max(self.version, version + 1))

    def is_before(self, item: Item, skew_ms: int) -> bool:
        """Return whether an item was certainly stamped after this write began."""
        writer = schema.writer_of(item) or ""
        if writer.startswith(self.name[:8]):
            return writer > self.name
        return schema.version_of(item) > self.version + skew_ms * 1000


class Values:
    """The values in a table.

    :param table: the table
    :param skew_ms: the largest difference between two clocks of the fleet
    """

    def __init__(self, table: Table, skew_ms: int) -> None:
        self._table = table
        self._skew_ms = skew_ms

    async def put(
        self,
        item_of: Callable[[Stamp], Item],
        stamp: Stamp,
        now_ms: int,
        *,
        if_absent: bool = False,
    ) -> bool:
        """Write an item, and return whether it was written; ``if_absent`` leaves a value alone.

        :param item_of: returns the item with a stamp
        :raises StoreTimeoutError: if nobody can tell whether it was
        """
        item = item_of(stamp)
        for _ in range(MOST_ROUNDS):
            older = f"{_OLDER} AND {_NO_VALUE}" if if_absent else _OLDER
            values = {":version": number(stamp.version)}
            if if_absent:
                values |= {":now": number(now_ms), ":nowSeconds": number(now_ms // 1000)}
            parameters = {
                "TableName": self._table.name,
                "Item": item,
                "ConditionExpression": f"attribute_not_exists(#pk) OR ({older})",
                "ExpressionAttributeNames": _NO_VALUE_NAMES if if_absent else _NAMES,
                "ExpressionAttributeValues": values,
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
            answer = await self._table.send("put_item", parameters, size=schema.size_of(item))
            if answer.granted:
                return True
            found = answer.item
            absent_ms = now_ms if if_absent else 0
            try:
                written = self._written(found, item, stamp, absent_ms, answer.in_doubt)
            except CorruptRecordError:
                if if_absent or found is None:
                    raise
                written = (await self._table.replace(found, item)).granted or None
            if written is not None:
                return written
            stamp = stamp if found is None else stamp.above(schema.version_of(found))
            item = item_of(stamp)
        raise _overtaken(item)

    def _written(
        self,
        found: Item | None,
        item: Item,
        stamp: Stamp,
        absent_ms: int,
        doubtful: bool,
    ) -> bool | None:
        """Return whether a refused write was written; ``None`` if it is to be sent once more.

        :param absent_ms: the time if it was to leave a value alone, else 0
        """
        if found is not None:
            if schema.writer_of(found) == stamp.name:
                return True
            newer = schema.version_of(found) > stamp.version
            if absent_ms and schema.is_live(found, absent_ms) and not (doubtful and newer):
                return False
            if doubtful and not absent_ms and stamp.is_before(found, self._skew_ms):
                return True
        if doubtful:
            raise nobody_can_tell(item)
        return None

    async def touch(self, key: Item, stamp: Stamp, now_ms: int, until_ms: int | None) -> bool:
        """Let a value expire at a time, or never; return whether there was one.

        :raises StoreTimeoutError: if nobody can tell whether there was one
        """
        values = {":by": text(stamp.name), ":now": number(now_ms)}
        if until_ms is not None:
            values[":until"] = number(until_ms)
            values[":ttl"] = number(schema.whole_seconds(until_ms))
            values[":zero"] = schema.ZERO
        update = _TOUCH_FOR_EVER if until_ms is None else _TOUCH
        for _ in range(MOST_ROUNDS):
            values[":version"] = number(stamp.version)
            answer = await self._table.update(key, update, values)
            found = answer.item
            if answer.granted or (found is not None and schema.writer_of(found) == stamp.name):
                return True
            if answer.in_doubt:
                if found is not None and stamp.is_before(found, self._skew_ms):
                    return True  # It was touched, as far as anybody can see, and written since.
                raise nobody_can_tell(key)
            if found is None or not schema.is_live(found, now_ms):
                return False
            if schema.version_of(found) < stamp.version:
                return False  # It has no value at all.
            stamp = stamp.above(schema.version_of(found))
        raise _overtaken(key)

    async def delete(self, key: Item, stamp: Stamp, now_ms: int) -> bool:
        """Delete an item, and return whether it had a value.

        :raises StoreTimeoutError: if nobody can tell whether it had one
        """
        for _ in range(MOST_ROUNDS):
            values: dict[str, Any] = {
                ":version": number(stamp.version),
                ":grave": {"M": {"until": schema.ZERO, "by": text(stamp.name)}},
                ":never": number(schema.LARGEST_NUMBER - 1),
                ":ttl": number(schema.whole_seconds(now_ms + GRAVE_MS)),
            }
            answer = await self._table.update(key, _BURY, values)
            found = answer.item
            try:
                if found is None:
                    return False
                if answer.granted:
                    return schema.is_live(found, now_ms)
                existed = self._existed(found, key, stamp, now_ms, answer.in_doubt)
                if existed is not None:
                    return existed
                stamp = stamp.above(schema.version_of(found))
            except CorruptRecordError:
                if answer.granted:
                    return True
                answer = await self._table.delete(key, **_malformed(found))
                if answer.granted:
                    return True
        raise _overtaken(key)

    def _existed(
        self, found: Item, key: Item, stamp: Stamp, now_ms: int, doubtful: bool
    ) -> bool | None:
        """Return what a refused deletion is to return; ``None`` if it is to be sent once more."""
        if "was" in found:
            if schema.writer_of(found) == stamp.name:
                return int(found["was"]["N"]) > now_ms
            if not doubtful or schema.version_of(found) <= stamp.version:
                return False
        elif doubtful and stamp.is_before(found, self._skew_ms):
            return True  # It was deleted, as far as anybody can see, and set again since.
        if doubtful:
            raise nobody_can_tell(key)
        return None


def _malformed(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the condition that an item that cannot be understood is still as it was found."""
    if found is None or "version" not in found:
        return {
            "ConditionExpression": "attribute_exists(#pk) AND attribute_not_exists(#version)",
            "ExpressionAttributeNames": _NAMES,
        }
    return {
        "ConditionExpression": "attribute_exists(#pk) AND #version = :version",
        "ExpressionAttributeNames": _NAMES,
        "ExpressionAttributeValues": {":version": found["version"]},
    }


def nobody_can_tell(item: Item) -> StoreTimeoutError:
    """Return the error for a write that may have been applied."""
    return StoreTimeoutError(
        f"a write of {item['pk']['S']!r} was not answered, and what is there now does not tell "
        "whether it was applied"
    )


def _overtaken(item: Item) -> ThrottledError:
    return ThrottledError(f"{item['pk']['S']!r} changed {MOST_ROUNDS} times while it was written")
