"""Writes of cached values: each is applied once, and undoes nothing that others wrote since.

Every write of a value has a stamp: a version that is higher than that of all writes that the
process knows to be earlier, and the name of the write. A write replaces only what has a lower
version. So one that lands late, or is sent again, finds what was written since and is refused.
When it is refused although no try of it can have been applied, the clock that made the other stamp
is ahead: it is sent again with a higher version.

A deletion leaves a grave for an hour: an item without a value, with a stamp. Otherwise a write that
was applied, read, and then deleted would be applied again when its answer was lost.

An item holds the name and the version of the write that its value, or the grave, is from. What only
touches it raises the version of the item, and leaves those as they are.

In doubt, the item that a refusal shows is one of these:

- It has the name of this write: it was applied.
- What it holds was written with a lower version: this write was not applied. If the item has a
  lower version, too, it could still be. Then the item is sealed: its version is raised and nothing
  else, so that no try of this write that is on its way is granted. After that there is no doubt.
- What it holds was certainly written later. This write was applied and then replaced, or would have
  been: both look the same to everybody, unless the caller is told whether there was a value.
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
from gogoscope_dynamodb.answers import Answer, Update
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
_RAISED = "#version = :version, #data.#written = if_not_exists(#data.#written, #version)"
_TOUCHED = f"{_RAISED}, #data.#touchedBy = :by"
_TOUCH = Update(
    f"SET {_TOUCHED}, #data.#until = :until, "
    "#expiresAt = :ttl + if_not_exists(#data.#keptSeconds, :zero)",
    _LIVE,
)
_TOUCH_FOR_EVER = Update(f"SET {_TOUCHED} REMOVE #data.#until, #expiresAt", _LIVE)
_BURY = Update(
    "SET #version = :version, #data = :grave, #was = if_not_exists(#data.#until, :never), "
    "#expiresAt = :ttl",
    f"attribute_exists(#pk) AND attribute_not_exists(#was) AND {_OLDER}",
    "ALL_OLD",
)
_SEAL = Update(f"SET {_RAISED}", "#version = :seen", "NONE")
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
        """Return whether what an item holds was certainly written after this write began."""
        writer = schema.writer_of(item)
        if writer.startswith(self.name[:8]):
            return writer > self.name
        return schema.written_version_of(item) > self.version + skew_ms * 1000


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
        primary = schema.primary_key(item)
        in_doubt = False
        for _ in range(MOST_ROUNDS):
            answer = await self._put(item, stamp, now_ms if if_absent else None)
            if answer.granted:
                return True
            found, in_doubt = answer.item, in_doubt or answer.in_doubt
            try:
                if found is None:
                    continue  # It was purged since.
                if in_doubt and self._was_applied(found, stamp, blind=not if_absent):
                    return True
                if in_doubt and not await self._rule_out(found, stamp, primary, now_ms):
                    continue
                in_doubt = False
                if if_absent and schema.is_live(found, now_ms):
                    return False
                stamp = stamp.above(schema.version_of(found))
            except CorruptRecordError:
                if if_absent or found is None:
                    raise
                if (await self._table.replace(found, item)).granted:
                    return True
            item = item_of(stamp)
        raise nobody_can_tell(item) if in_doubt else _overtaken(item)

    async def _put(self, item: Item, stamp: Stamp, absent_ms: int | None) -> Answer:
        """Send an item in place of an older one.

        :param absent_ms: the time if it is to leave a value alone
        """
        older, values = _OLDER, {":version": number(stamp.version)}
        if absent_ms is not None:
            older = f"{_OLDER} AND {_NO_VALUE}"
            values |= {":now": number(absent_ms), ":nowSeconds": number(absent_ms // 1000)}
        return await self._table.put(
            item,
            size=schema.size_of(item),
            ConditionExpression=f"attribute_not_exists(#pk) OR ({older})",
            ExpressionAttributeNames=_NAMES if absent_ms is None else _NO_VALUE_NAMES,
            ExpressionAttributeValues=values,
        )

    def _was_applied(self, found: Item | None, stamp: Stamp, *, blind: bool) -> bool:
        """Return whether an item shows that a write was applied, or may be taken to have been."""
        if found is None:
            return False
        if schema.writer_of(found) == stamp.name:
            return True
        return blind and stamp.is_before(found, self._skew_ms)

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
        in_doubt = False
        for _ in range(MOST_ROUNDS):
            values[":version"] = number(stamp.version)
            answer = await self._table.update(key, update, values)
            found, in_doubt = answer.item, in_doubt or answer.in_doubt
            if answer.granted or (found is not None and schema.toucher_of(found) == stamp.name):
                return True
            if in_doubt and found is not None and schema.version_of(found) >= stamp.version:
                raise nobody_can_tell(key)  # Others may have touched it since.
            if in_doubt and not await self._rule_out(found, stamp, key, now_ms):
                continue
            in_doubt = False
            if found is None or not schema.is_live(found, now_ms):
                return False
            if schema.version_of(found) < stamp.version:
                return False  # It has no value at all.
            stamp = stamp.above(schema.version_of(found))
        raise nobody_can_tell(key) if in_doubt else _overtaken(key)

    async def delete(self, key: Item, stamp: Stamp, now_ms: int, *, blind: bool = False) -> bool:
        """Delete an item, and return whether it had a value.

        :param blind: whether the caller does not ask for that
        :raises StoreTimeoutError: if nobody can tell whether it had one
        """
        in_doubt = False
        for _ in range(MOST_ROUNDS):
            values: dict[str, Any] = {
                ":version": number(stamp.version),
                ":never": number(schema.LARGEST_NUMBER - 1),
                **_grave(stamp, now_ms),
            }
            answer = await self._table.update(key, _BURY, values)
            found, in_doubt = answer.item, in_doubt or answer.in_doubt
            try:
                if answer.granted:
                    return found is not None and schema.is_live(found, now_ms)
                if found is not None and "was" in found and schema.writer_of(found) == stamp.name:
                    return int(found["was"]["N"]) > now_ms
                if in_doubt and blind and self._was_applied(found, stamp, blind=True):
                    return True
                if in_doubt and not await self._rule_out(found, stamp, key, now_ms):
                    continue
                in_doubt = False
                if found is None or "was" in found:
                    return False
                stamp = stamp.above(schema.version_of(found))
            except CorruptRecordError:
                if answer.granted:
                    return True
                answer = await self._table.delete(key, **_malformed(found))
                if answer.granted:
                    return True
        raise nobody_can_tell(key) if in_doubt else _overtaken(key)

    async def _rule_out(self, found: Item | None, stamp: Stamp, key: Item, now_ms: int) -> bool:
        """Make sure that no try of a write was applied or will be; ``False``: look again.

        :param found: the item that a refusal showed, which has not the name of the write
        :raises StoreTimeoutError: if one may have been applied
        """
        if found is None:
            # What was applied would have left something; a grave keeps it from being applied.
            grave = _grave(stamp, now_ms)
            answer = await self._table.put(
                {
                    **key,
                    "version": number(stamp.version),
                    "data": grave[":grave"],
                    "was": schema.ZERO,
                    "expiresAt": grave[":ttl"],
                },
                ConditionExpression="attribute_not_exists(#pk)",
                ExpressionAttributeNames={"#pk": "pk"},
            )
            return answer.granted
        if schema.written_version_of(found) > stamp.version:
            raise nobody_can_tell(key)
        seen = schema.version_of(found)
        if seen >= stamp.version:
            return True
        values = {":version": number(stamp.version), ":seen": number(seen)}
        return (await self._table.update(key, _SEAL, values)).granted


def _grave(stamp: Stamp, now_ms: int) -> dict[str, Any]:
    """Return the values of a grave."""
    return {
        ":grave": {"M": {"until": schema.ZERO, "by": text(stamp.name)}},
        ":ttl": number(schema.whole_seconds(now_ms + GRAVE_MS)),
    }


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
