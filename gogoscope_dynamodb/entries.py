"""Entries in the table: one item each, replaced by one conditional PutItem.

The item of an entry has the record's text in ``data.json``, the ids of its writers in
``data.writers``, the time from which on nobody needs it in ``data.until``, and the number of this
format in ``data.format``. Its ``version`` is the optimistic lock. A swap compares that and, since
versions begin with the clocks of many machines, the id of the last writer (``data.by``), too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from gogoscope.exceptions import CorruptRecordError, RecordTooLargeError, StoreTimeoutError
from gogoscope.persistence import (
    Clock,
    ClockSteps,
    CompareAndSwap,
    Entry,
    Swapped,
    corrupt_record,
    side_by_side,
)
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.batches import READ_TIMEOUT
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import Item, number, text

FORMAT = 1
ITEM_OVERHEAD = 256
"""The most bytes of an item beside its key, its text and its writers: names, numbers, markers."""

_IS_ABSENT = {"ConditionExpression": "attribute_not_exists(pk)"}
_IS_SEEN = {
    "ConditionExpression": "#version = :version AND #data.#by = :by",
    "ExpressionAttributeNames": {"#version": "version", "#data": "data", "#by": "by"},
}


class Entries(CompareAndSwap):
    """A place for entries in a table.

    :param table: the table
    :param clock: tells the time; its ``wall()`` is used
    """

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._steps = ClockSteps(clock)

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the Unix epoch."""
        return int(self._clock.wall() * 1000)

    def clock_was_set(self) -> bool:
        """Return whether the wall clock was set since it was first asked for that."""
        return self._steps.stepped()

    async def load(self, kind: str, key: str) -> Entry | None:
        """Return an entry as the newest completed write left it; one read."""
        item = await self._table.read(_key(kind, key), consistent=True)
        return _decoded(kind, key, item)

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        """Write ``new`` if the last writer is still that of ``seen``; one write."""
        condition: dict[str, Any] = _IS_ABSENT
        if seen is not None:
            values = {":version": number(seen.number), ":by": text(seen.writer)}
            condition = {**_IS_SEEN, "ExpressionAttributeValues": values}
        item = _encoded(kind, key, new)
        answer = await self._table.put(item, size=len(new.text), **condition)
        if answer.granted:
            return Swapped(swapped=True)
        return Swapped(
            swapped=False, found=_decoded(kind, key, answer.item), in_doubt=answer.in_doubt
        )

    async def put(self, kind: str, key: str, new: Entry) -> None:
        """Write ``new``, whatever is there; one write, or more if what is there is newer.

        Each has a condition that its own effect breaks, so that none undoes what came after it.
        """
        item = _encoded(kind, key, new)
        answer = await self._table.put(
            item,
            size=len(new.text),
            ConditionExpression="attribute_not_exists(pk) OR #version < :version",
            ExpressionAttributeNames={"#version": "version"},
            ExpressionAttributeValues={":version": number(new.number)},
        )
        while not answer.granted:
            found = answer.item or {}
            if found == item:
                return
            if answer.in_doubt:
                raise StoreTimeoutError(
                    f"the {kind} {key!r} may have been replaced: the answer was lost, and others "
                    "have written since"
                )
            answer = await self._table.replace(found, item)

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        """Return the keys that one page of a scan has found; it is charged for all that it read."""
        items, following = await self._page(kind, prefix, after)
        now_ms = self.now_ms()
        cut = len(_kind(kind))
        return [item["pk"]["S"][cut:] for item in items if not _is_over(item, now_ms)], following

    async def clear(self, kind: str, prefix: str) -> None:
        """Remove the entries of a kind whose keys start with ``prefix``: a scan, and writes."""
        after: str | None = None
        async with side_by_side() as start:
            while True:
                items, after = await self._page(kind, prefix, after)
                for item in items:
                    await start(partial(self._remove, item))
                if after is None:
                    return

    async def _page(
        self, kind: str, prefix: str, after: str | None
    ) -> tuple[list[Item], str | None]:
        parameters = {
            "TableName": self._table.name,
            "ConsistentRead": True,
            "FilterExpression": "begins_with(#pk, :start)",
            "ProjectionExpression": "#pk, #version, #data.#until",
            "ExpressionAttributeNames": {
                f"#{name}": name for name in ("pk", "version", "data", "until")
            },
            "ExpressionAttributeValues": {":start": text(_kind(kind) + prefix)},
        }
        if after is not None:
            parameters["ExclusiveStartKey"] = _position(after)
        timeout = max(self._table.timeout, READ_TIMEOUT)
        answer = await self._table.send("scan", parameters, timeout=timeout)
        following = answer.response.get("LastEvaluatedKey")
        return answer.response["Items"], None if following is None else following["pk"]["S"]

    async def _remove(self, item: Item) -> None:
        """Remove an item, unless it was written since: the request may land late."""
        names = {"ExpressionAttributeNames": {"#version": "version"}}
        key = schema.primary_key(item)
        if "version" not in item:
            unversioned = "attribute_exists(pk) AND attribute_not_exists(#version)"
            await self._table.delete(key, ConditionExpression=unversioned, **names)
            return
        values = {":version": item["version"]}
        await self._table.delete(
            key,
            ConditionExpression="#version = :version",
            ExpressionAttributeValues=values,
            **names,
        )


def _kind(kind: str) -> str:
    return f"{kind.upper()}#"


def _key(kind: str, key: str) -> Item:
    return schema.item_key(_kind(kind), "", key)


def _position(partition: str) -> Item:
    return {"pk": text(partition), "sk": text(schema.SORT_KEY)}


def _is_over(item: Item, now_ms: int) -> bool:
    until = item.get("data", {}).get("M", {}).get("until", {}).get("N")
    return until is not None and int(until) <= now_ms


def _encoded(kind: str, key: str, entry: Entry) -> Item:
    """Return the item of an entry.

    :raises RecordTooLargeError: if it is larger than DynamoDB holds
    """
    item = _key(kind, key)
    data = {
        "json": text(entry.text),
        "by": text(entry.writer),
        "writers": text(",".join(entry.writers)),
        "format": number(FORMAT),
    }
    size = sum(len(part["S"].encode()) for part in (item["pk"], data["json"], data["writers"]))
    if size + ITEM_OVERHEAD > schema.LARGEST_ITEM:
        raise RecordTooLargeError(
            f"the {kind} {key[:80]!r} makes an item of {size + ITEM_OVERHEAD:,} bytes; DynamoDB "
            f"holds at most {schema.LARGEST_ITEM:,}"
        )
    item["version"] = number(entry.number)
    item["data"] = {"M": data}
    if entry.purge_at_ms is not None:
        data["until"] = number(entry.purge_at_ms)
        item[schema.TTL_ATTRIBUTE] = schema.purge_time(entry.purge_at_ms)
    return item


def _decoded(kind: str, key: str, item: Item | None) -> Entry | None:
    """Return the entry of an item.

    :raises CorruptRecordError: if the item cannot be understood
    """
    if item is None:
        return None
    try:
        data = item["data"]["M"]
        _check_format(data)
        return Entry(
            text=data["json"]["S"],
            purge_at_ms=int(data["until"]["N"]) if "until" in data else None,
            number=schema.version_of(item),
            writers=tuple(data["writers"]["S"].split(",")),
        )
    except CorruptRecordError:
        raise
    except Exception as error:
        raise corrupt_record(kind, key, error) from error


def _check_format(data: Item) -> None:
    if data["format"] != number(FORMAT):
        raise ValueError(f"its format must be {FORMAT}, got {data['format']}")
