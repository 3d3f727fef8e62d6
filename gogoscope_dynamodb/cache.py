"""A cache in a DynamoDB table: one request to read or write a value, a scan to list them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from gogoscope.exceptions import CorruptRecordError, RecordTooLargeError
from gogoscope.persistence import (
    CacheEntry,
    Pages,
    check_keys,
    check_mapping,
    check_stale,
    check_ttl,
    for_each,
    leave_out,
    side_by_side,
)
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.batches import READ_BATCH, chunks, items_of, read_batch
from gogoscope_dynamodb.capability import Capability, Settings
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.scan import SEGMENTS, Found, Scan
from gogoscope_dynamodb.schema import CACHE, Item, number, text
from gogoscope_dynamodb.values import Stamp, Values

ITEM_OVERHEAD = 192
"""The most bytes of a cache item beside its key and its text: names, numbers and their markers.

Those that come later count, too, when it is touched or sealed: what was stored can be touched.
"""

_WITHOUT_VALUE = {
    "ProjectionExpression": "#pk, #version, #was, #expiresAt, #data.#until",
    "ExpressionAttributeNames": {
        f"#{name}": name for name in ("pk", "version", "was", "expiresAt", "data", "until")
    },
}


class Cache(Capability):
    """The methods of a ``CacheProvider``.

    ``get``, ``get_many``, ``has``, ``keys`` and ``iterate_keys`` may miss what was written less
    than about a second ago, unless the store was made with ``consistent_reads``.
    """

    def __init__(self, table: Table, settings: Settings) -> None:
        super().__init__(table, settings)
        self._values = Values(table, self._allowed_skew_ms())

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if it has none; one read."""
        found = await self._table.read(
            self._key(CACHE, key), consistent=self._settings.consistent_reads
        )
        if found is None or not schema.is_live(found, self._now_ms()):
            return default
        return schema.decode_value(found, self._settings.codec)

    async def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Return the value of a key and when it expires, or ``None`` if it has none; one read.

        :param latest: whether to see every write that was completed before, at twice the price
        :param stale: whether to return an expired value that is still kept, too
        """
        found = await self._table.read(
            self._key(CACHE, key), consistent=latest or self._settings.consistent_reads
        )
        now_ms = self._now_ms()
        if found is None or not (schema.is_kept if stale else schema.is_live)(found, now_ms):
            return None
        until_ms = schema.end_of(found)
        left = math.inf if until_ms is None else (until_ms - now_ms) / 1000
        return CacheEntry(schema.decode_value(found, self._settings.codec), until_ms, left)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that have one; one read for each 100 keys."""
        items = await items_of(partial(self._key, CACHE), check_keys(keys))
        found: dict[str, Any] = {}

        def collect(item: Item) -> None:
            if schema.is_live(item, self._now_ms()):
                key = schema.key_of(item, CACHE, self._settings.key_prefix)
                found[key] = schema.decode_value(item, self._settings.codec)

        async def read(part: Iterable[Item]) -> None:
            await read_batch(
                self._table, list(part), collect, consistent=self._settings.consistent_reads
            )

        await for_each(read, list(chunks(items, READ_BATCH)))
        return found

    async def set(
        self,
        key: str,
        value: Any,
        ttl: float | timedelta | None = None,
        *,
        if_absent: bool = False,
        stale: float | timedelta = 0,
    ) -> bool:
        """Set the value of a key, for ``ttl`` seconds or for ever; one write.

        :param if_absent: whether to leave a key alone that has a value, in one atomic step
        :param stale: for how many seconds the value is kept after it has expired; only
            ``get_entry(stale=True)`` returns it then, but its key may still be listed
        :returns: whether the value was set; without ``if_absent`` it always is
        :raises TypeError: if the value cannot be stored faithfully; the message names the path
        :raises ValueError: likewise, or if ``ttl`` is out of range
        :raises RecordTooLargeError: if the item would be larger than 400 KB; nothing is sent
        """
        now_ms = self._now_ms()
        stale_ms = schema.milliseconds(check_stale(stale))
        item = self._item(key, value, self._until(ttl, now_ms), stale_ms)
        return await self._values.put(
            partial(_stamped, item), Stamp(self._stamp(now_ms)), now_ms, if_absent=if_absent
        )

    async def set_many(
        self, values: Mapping[str, Any], ttl: float | timedelta | None = None
    ) -> None:
        """Set the values of many keys, each for ``ttl`` seconds or for ever.

        One request for each key, 16 at a time: it is not one transaction.

        :raises TypeError: if a value cannot be stored faithfully; nothing is sent
        :raises ValueError: likewise, or if ``ttl`` is out of range
        :raises RecordTooLargeError: if an item would be larger than 400 KB; nothing is sent
        """
        now_ms = self._now_ms()
        until_ms = self._until(ttl, now_ms)
        items = await items_of(
            lambda pair: self._item(*pair, until_ms), list(check_mapping(values).items())
        )
        stamp = Stamp(self._stamp(now_ms))

        async def put(item: Item) -> None:
            await self._values.put(partial(_stamped, item), stamp, now_ms)

        await for_each(put, items)

    async def touch(self, key: str, ttl: float | timedelta | None = None) -> bool:
        """Let the value of a key expire in ``ttl`` seconds, or never; ``False`` if it has none.

        One write.

        :raises ValueError: if ``ttl`` is out of range
        """
        now_ms = self._now_ms()
        until_ms = self._until(ttl, now_ms)
        key_of_item = self._key(CACHE, key)
        return await self._values.touch(key_of_item, Stamp(self._stamp(now_ms)), now_ms, until_ms)

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value; one write.

        It leaves an item without a value for an hour, by which a write that arrives late is told.

        :raises StoreTimeoutError: if the answer was lost, and nobody can tell whether it had one
        """
        return await self._delete(self._key(CACHE, key), blind=False)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many keys, whether or not they have a value; one request for each key."""
        await for_each(self._delete, await items_of(partial(self._key, CACHE), check_keys(keys)))

    async def has(self, key: str) -> bool:
        """Return whether a key has a value, ``None`` included; one read."""
        found = await self._table.read(
            self._key(CACHE, key),
            consistent=self._settings.consistent_reads,
            **_WITHOUT_VALUE,
        )
        return found is not None and schema.is_live(found, self._now_ms())

    async def clear(self) -> None:
        """Remove every key below the store's prefix; touches no lock and no circuit.

        It reads the whole table, and is charged for the items of other stores, too. It writes once
        for each key that it removes.
        """
        async with side_by_side() as start:

            async def remove(found: Found) -> None:
                for _, item in found:
                    if "was" not in item:
                        await start(partial(self._delete, schema.primary_key(item)))

            await self._scan(None, consistent=True, segments=SEGMENTS).for_each_page(remove)

    async def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, without the store's prefix, in no particular order.

        It reads the whole table, whatever the pattern is, and is charged for that.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        listed: list[str] = []

        async def collect(found: Found) -> None:
            listed.extend(self._live_keys(found))

        await self._scan(pattern, segments=SEGMENTS).for_each_page(collect)
        return listed

    def iterate_keys(self, pattern: str | None = None) -> AsyncIterator[str]:
        """Return the keys that have a value one by one, read page by page: ``async for``.

        It reads the table as far as it is iterated, and is charged for that. It reads one page
        after the other, so it takes longer than ``keys``.

        :param pattern: as in :meth:`keys`
        """
        scan = self._scan(pattern)

        async def read(after: Item | None) -> tuple[list[str], Item | None]:
            found, following = await scan.page(after)
            return self._live_keys(found), following

        return Pages(read)

    def _until(self, ttl: float | timedelta | None, now_ms: int) -> int | None:
        return None if ttl is None else now_ms + schema.milliseconds(check_ttl(ttl))

    def _item(self, key: str, value: Any, until_ms: int | None, stale_ms: int = 0) -> Item:
        """Return the item of a value, without its stamp.

        :raises RecordTooLargeError: if it is larger than DynamoDB holds
        """
        item = self._key(CACHE, key)
        data = {
            "json": text(self._settings.codec.dumps(value)),
        }
        size = sum(len(part["S"].encode()) for part in (item["pk"], data["json"])) + ITEM_OVERHEAD
        if size > schema.LARGEST_ITEM:
            raise RecordTooLargeError(
                f"the value of {key[:80]!r} makes an item of {size:,} bytes; DynamoDB holds at "
                f"most {schema.LARGEST_ITEM:,}"
            )
        item["data"] = {"M": data}
        if until_ms is not None:
            data["until"] = number(until_ms)
            item["expiresAt"] = number(schema.whole_seconds(until_ms + stale_ms))
        if stale_ms:
            data["stale"] = number(stale_ms)
            data["keptSeconds"] = number(schema.whole_seconds(stale_ms))
        return item

    async def _delete(self, key: Item, *, blind: bool = True) -> bool:
        now_ms = self._now_ms()
        return await self._values.delete(key, Stamp(self._stamp(now_ms)), now_ms, blind=blind)

    def _scan(
        self, pattern: str | None, *, consistent: bool | None = None, segments: int = 1
    ) -> Scan:
        return Scan(
            self._table,
            CACHE,
            self._settings.key_prefix,
            pattern,
            consistent=self._settings.consistent_reads if consistent is None else consistent,
            projection=_WITHOUT_VALUE,
            segments=segments,
        )

    def _live_keys(self, found: Found) -> list[str]:
        now_ms = self._now_ms()
        return [key for key, item in found if _is_listed(item, now_ms)]


def _is_listed(item: Item, now_ms: int) -> bool:
    try:
        return schema.is_live(item, now_ms)
    except CorruptRecordError as error:
        leave_out(error)
        return False


def _stamped(item: Item, stamp: Stamp) -> Item:
    data = {"M": {**item["data"]["M"], "by": text(stamp.name)}}
    return {**item, "version": number(stamp.version), "data": data}
