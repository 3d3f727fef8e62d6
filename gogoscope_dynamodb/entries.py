"""Entries in the table: one item each, replaced by one conditional PutItem.

The item of an entry has the record's text in ``data.json``, the ids of its writers in
``data.writers``, the time from which on nobody needs it in ``data.until``, and the number of this
format in ``data.format``. Its ``version`` is the optimistic lock. A swap compares that and, since
versions begin with the clocks of many machines, the id of the last writer (``data.by``), too.

What conditions of others may name (``Entry.marks``) stands beside the text: ``data.nonce``,
``data.status`` and ``data.seq``. So a part of a caller's transaction can be made without reading
anything (:meth:`Entries.transact_item`), and holds whatever else has changed since. It changes the
text in one of two ways: all of it, or all but its lease, which may have been renewed since. The
latter stands in ``data.over``, and the item has the format 2 until the entry is written again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
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
    monotonic,
    side_by_side,
)
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.batches import READ_TIMEOUT
from gogoscope_dynamodb.fleet_clock import FleetClock
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import Item, number, text

FORMAT = 1
FORMAT_OVER = 2
"""That of an item whose text is to be read with ``data.over``."""
ITEM_OVERHEAD = 384
"""The most bytes of an item beside its key, its text and its writers: names, numbers, markers."""

MOST_OF_IDS = 512
"""The most bytes that the ids of the writers have."""

LEASE = "lease"
"""The field of a record that a change in a transaction may leave as it is."""

MARKS = ("nonce", "status", "seq")
RUNNING = "running"
"""The status of what somebody has the lease of."""

_LONG = ("json", "over", "writers")
_IS_ABSENT = {"ConditionExpression": "attribute_not_exists(pk)"}
_IS_SEEN = {
    "ConditionExpression": "#version = :version AND #data.#by = :by",
    "ExpressionAttributeNames": {"#version": "version", "#data": "data", "#by": "by"},
}


class Entries(CompareAndSwap):
    """A place for entries in a table.

    :param table: the table
    :param clock: tells the time until the server does; its ``wall()`` is used
    :param fleet_clock: learns the server's time from the answers; one of its own if left out
    """

    def __init__(self, table: Table, clock: Clock, fleet_clock: FleetClock | None = None) -> None:
        self._table = table
        self._fleet_clock = fleet_clock or FleetClock(clock)
        self._clock = clock
        self._steps = ClockSteps(clock)
        self._steps.stepped()  # from now on it is noticed

    def now_ms(self) -> int:
        """Return how late it is at the latest, by the server's clock, in milliseconds.

        So a lease that is written never ends too early, whatever the clock of this machine shows.
        """
        return self._fleet_clock.latest_ms()

    def knows_the_time(self) -> bool:
        """Return whether an answer has told it."""
        return self._fleet_clock.is_known()

    def clock_error_ms(self) -> int:
        """Return how much earlier than that it may be."""
        return self._fleet_clock.spread_ms()

    def clock_was_set(self) -> bool:
        """Return whether the clock that tells the time was set since the place was made."""
        clock = self._fleet_clock
        return clock.was_set() if clock.tells() else self._steps.stepped()

    async def load(self, kind: str, key: str) -> Entry | None:
        """Return an entry as the newest completed write left it; one read."""
        parameters = {"TableName": self._table.name, "Key": _key(kind, key), "ConsistentRead": True}
        sent = monotonic()
        answer = await self._table.send("get_item", parameters)
        self._fleet_clock.learn(answer.response, sent)
        return _decoded(kind, key, answer.response.get("Item"))

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        """Write ``new`` if the last writer is still that of ``seen``; one write."""
        condition: dict[str, Any] = _IS_ABSENT
        if seen is not None:
            values = {":version": number(seen.number), ":by": text(seen.writer)}
            condition = {**_IS_SEEN, "ExpressionAttributeValues": values}
        item = _encoded(kind, key, new)
        sent = monotonic()
        answer = await self._table.put(item, size=len(new.text), **condition)
        self._fleet_clock.learn(answer.response, sent)
        if answer.granted:
            return Swapped(swapped=True)
        return Swapped(
            swapped=False, found=_decoded(kind, key, answer.item), in_doubt=answer.in_doubt
        )

    def transact_item(
        self, kind: str, key: str, new: Entry, *, nonce: str, seq: int, over: bool
    ) -> dict[str, Any]:
        """Return a part of a transaction that changes an entry once; makes no request.

        Its condition is that ``nonce`` still runs, at ``seq`` as marked. It is sent by others, and
        may be sent again: after it was applied, its condition does not hold any more.

        :param new: the text, the purge time and the marks as they are to be
        :param seq: the mark to find; with ``over``, that to leave, above what is found
        :param over: whether the lease in the text stays as it is
        """
        data = {name: _mark(value) for name, value in new.marks.items()}
        data["by"] = text(secrets.token_hex(6))
        data["over" if over else "json"] = text(new.text)
        data["format"] = number(FORMAT_OVER if over else FORMAT)
        # The ids of the writers stay.
        _check_size(kind, key, _key(kind, key)["pk"], {**data, "writers": text(" " * MOST_OF_IDS)})
        if new.purge_at_ms is not None:
            data["until"] = number(new.purge_at_ms)
        kept = {f"#data.#{name} = :{name}": value for name, value in data.items()}
        removed = [f"#data.#{name}" for name in ("nonce", "until") if name not in data]
        values = {f":{name}": value for name, value in data.items()}
        names = {f"#{name}": name for name in ("data", "version", "nonce", "until", *data)}
        sets = [*kept, "#version = #version + :one"]
        if new.purge_at_ms is None:
            removed.append("#purged")
        else:
            sets.append("#purged = :purged")
            values[":purged"] = schema.purge_time(new.purge_at_ms)
        update = f"SET {', '.join(sets)}"
        if removed:
            update += f" REMOVE {', '.join(removed)}"
        return {
            "Update": {
                "TableName": self._table.name,
                "Key": _key(kind, key),
                "UpdateExpression": update,
                "ConditionExpression": (
                    "#data.#nonce = :found_nonce AND #data.#status = :found_status "
                    f"AND #data.#seq {'<' if over else '='} :found_seq"
                ),
                "ExpressionAttributeNames": {**names, "#purged": schema.TTL_ATTRIBUTE},
                "ExpressionAttributeValues": {
                    **values,
                    ":one": schema.ONE,
                    ":found_nonce": text(nonce),
                    ":found_status": text(RUNNING),
                    ":found_seq": number(seq),
                },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

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
    try:
        return until is not None and int(until) <= now_ms
    except ValueError:
        return False  # Whoever reads the item says what is wrong with it.


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
        **{name: _mark(value) for name, value in entry.marks.items()},
    }
    _check_size(kind, key, item["pk"], data)
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
        writers, last = tuple(data["writers"]["S"].split(",")), data["by"]["S"]
        return Entry(
            text=_text_of(data),
            purge_at_ms=int(data["until"]["N"]) if "until" in data else None,
            number=schema.version_of(item),
            writers=writers if writers[-1] == last else (*writers, last),
            marks={name: _marked(data[name]) for name in MARKS if name in data},
        )
    except CorruptRecordError:
        raise
    except Exception as error:
        raise corrupt_record(kind, key, error) from error


def _check_format(data: Item) -> None:
    expected = FORMAT_OVER if "over" in data else FORMAT
    if data["format"] != number(expected):
        raise ValueError(f"its format must be {expected}, got {data['format']}")


def _check_size(kind: str, key: str, partition: Item, data: Item) -> None:
    """Make sure that an item is not too large.

    :raises RecordTooLargeError: if it is larger than DynamoDB holds
    """
    size = len(partition["S"].encode())
    size += sum(len(data[name]["S"].encode()) for name in _LONG if name in data)
    if size + ITEM_OVERHEAD > schema.LARGEST_ITEM:
        raise RecordTooLargeError(
            f"the {kind} {key[:80]!r} makes an item of {size + ITEM_OVERHEAD:,} bytes; DynamoDB "
            f"holds at most {schema.LARGEST_ITEM:,}"
        )


def _text_of(data: Item) -> str:
    """Return the text of a record, with the lease that it has now."""
    written: str = data["json"]["S"]
    if "over" not in data:
        return written
    record = {**json.loads(data["over"]["S"]), LEASE: json.loads(written)[LEASE]}
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _mark(value: str | int) -> Item:
    return text(value) if isinstance(value, str) else number(value)


def _marked(value: Mapping[str, str]) -> str | int:
    return value["S"] if "S" in value else int(value["N"])
