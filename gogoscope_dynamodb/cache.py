"""A cache in a DynamoDB table: one request to read or write a value, a scan to list them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio

from gogoscope.exceptions import GogoscopeError, RecordTooLargeError, ThrottledError
from gogoscope.persistence.validation import check_ttl, glob_matcher, literal_start
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.capability import Capability
from gogoscope_dynamodb.requests import MOST_TRIES, backoff
from gogoscope_dynamodb.schema import CACHE, Item, number, text

SEGMENTS = 4
BATCH = 25
SCAN_TIMEOUT = 20.0
ITEM_OVERHEAD = 128
"""The most bytes of a cache item beside its key and its text: names, numbers and their markers."""

_EXPIRY = "#pk, #version, #expiresAt, #data.#until"
_EXPIRY_NAMES = {f"#{name}": name for name in ("pk", "version", "expiresAt", "data", "until")}


class Cache(Capability):
    """A ``CacheProvider`` on a table."""

    async def get(self, key: str, default: Any = None) -> Any:
        """Give the value of a key, or ``default`` if it has none; one read.

        What another request wrote less than about a second ago may be missed, unless the store
        was made with ``consistent_reads``.
        """
        found = await self._table.read(
            self._key(CACHE, key), consistent=self._settings.consistent_reads
        )
        if found is None or not schema.is_live(found, self._now_ms()):
            return default
        return schema.decode_value(found, self._settings.codec)

    async def set(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        """Set the value of a key, for ``ttl`` seconds or for ever; one write.

        :raises TypeError: if the value cannot be stored faithfully; the message names the path
        :raises ValueError: likewise, or if ``ttl`` is out of range
        :raises RecordTooLargeError: if the item would be larger than 400 KB; nothing is sent
        """
        item = self._key(CACHE, key)
        data = {"json": text(self._settings.codec.dumps(value)), "by": text(os.urandom(8).hex())}
        size = sum(len(part["S"].encode()) for part in (item["pk"], data["json"])) + ITEM_OVERHEAD
        if size > schema.LARGEST_ITEM:
            raise RecordTooLargeError(
                f"the value of {key[:80]!r} makes an item of {size:,} bytes; DynamoDB holds at "
                f"most {schema.LARGEST_ITEM:,}"
            )
        now_ms = self._now_ms()
        item |= {"version": number(now_ms * 1000), "data": {"M": data}}
        if ttl is not None:
            until_ms = now_ms + schema.milliseconds(check_ttl(ttl))
            data["until"] = number(until_ms)
            item["expiresAt"] = number(schema.whole_seconds(until_ms))
        await self._table.put(item)

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value; one write.

        When the answer to a first try was lost and a second one finds nothing, the first is taken
        to have removed it.
        """
        answer = await self._table.send(
            "delete_item",
            {
                "TableName": self._table.name,
                "Key": self._key(CACHE, key),
                "ReturnValues": "ALL_OLD",
            },
        )
        if (found := answer.item) is None:
            return answer.in_doubt
        return schema.is_live(found, self._now_ms())

    async def has(self, key: str) -> bool:
        """Tell whether a key has a value, ``None`` included; one read."""
        found = await self._table.read(
            self._key(CACHE, key),
            consistent=self._settings.consistent_reads,
            ProjectionExpression=_EXPIRY,
            ExpressionAttributeNames=_EXPIRY_NAMES,
        )
        return found is not None and schema.is_live(found, self._now_ms())

    async def clear(self) -> None:
        """Remove every key below the store's prefix; touches no lock and no circuit.

        It reads the whole table and is charged for that, other stores' items included; and it
        writes once for each key that it removes.
        """

        async def remove(items: list[Item]) -> None:
            keys = [{"pk": item["pk"], "sk": {"S": schema.SORT_KEY}} for item in items]
            for start in range(0, len(keys), BATCH):
                await self._delete_batch(keys[start : start + BATCH])

        await self._scan(self._settings.key_prefix, remove, consistent=True)

    async def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, without the store's prefix, in no particular order.

        It reads the whole table and is charged for that, whatever the pattern is.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        matches = glob_matcher(pattern)
        prefix = self._settings.key_prefix
        now_ms = self._now_ms()
        listed: list[str] = []

        async def collect(items: list[Item]) -> None:
            keys = (
                schema.cached_key(item, prefix) for item in items if schema.is_live(item, now_ms)
            )
            listed.extend(key for key in keys if matches(key))

        start = prefix + literal_start(pattern or "")
        await self._scan(start, collect, consistent=self._settings.consistent_reads)
        return listed

    async def _scan(
        self,
        start: str,
        use: Callable[[list[Item]], Awaitable[None]],
        *,
        consistent: bool,
    ) -> None:
        """Pass every page of cache items whose key begins with ``start`` to ``use``."""
        failures: list[GogoscopeError] = []

        async def scan_segment(segment: int) -> None:
            parameters: dict[str, Any] = {
                "TableName": self._table.name,
                "TotalSegments": SEGMENTS,
                "Segment": segment,
                "ConsistentRead": consistent,
                "FilterExpression": "begins_with(#pk, :start)",
                "ProjectionExpression": _EXPIRY,
                "ExpressionAttributeNames": _EXPIRY_NAMES,
                "ExpressionAttributeValues": {":start": text(CACHE + start)},
            }
            try:
                while True:
                    answer = await self._table.send("scan", parameters, timeout=SCAN_TIMEOUT)
                    await use(answer.response["Items"])
                    if (last := answer.response.get("LastEvaluatedKey")) is None:
                        return
                    parameters["ExclusiveStartKey"] = last
            except GogoscopeError as error:
                failures.append(error)
                workers.cancel_scope.cancel()

        async with anyio.create_task_group() as workers:
            for segment in range(SEGMENTS):
                workers.start_soon(scan_segment, segment)
        if failures:
            raise failures[0]

    async def _delete_batch(self, keys: list[Item]) -> None:
        requests: dict[str, Any] = {
            self._table.name: [{"DeleteRequest": {"Key": key}} for key in keys]
        }
        left, fruitless = len(keys), 0
        while True:
            answer = await self._table.send("batch_write_item", {"RequestItems": requests})
            requests = answer.response.get("UnprocessedItems") or {}
            before, left = left, sum(map(len, requests.values()))
            if not left:
                return
            # A throttled table removes a few at a time: giving up takes tries without any.
            fruitless = 0 if left < before else fruitless + 1
            if fruitless == MOST_TRIES:
                raise ThrottledError(f"table {self._table.name!r} refuses to remove {left} items")
            await anyio.sleep(backoff(fruitless + 1))
