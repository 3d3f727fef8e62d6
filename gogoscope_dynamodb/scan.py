"""Scans: finding the items of one kind by reading the whole table, page by page.

The partition key of the table is the whole key of an item, so there is no index that lists keys
which begin alike. A scan reads every item and is charged for it; a filter on the server keeps the
others off the wire. A page may therefore be empty although more items follow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence import Pages, glob_matcher, leave_out, literal_start, side_by_side
from gogoscope_dynamodb.batches import READ_TIMEOUT
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import Item, key_of, text

SEGMENTS = 4

Record = TypeVar("Record")
Found = list[tuple[str, Item]]
"""Items, each with its key without the store's prefix."""


class Scan:
    """One scan of a table, in one or more segments; each segment is read page by page.

    At its end it makes sure that a table in which it found nothing is one for this store.

    :param table: the table
    :param kind: the kind of the items
    :param prefix: the store's prefix; only items below it are found
    :param pattern: a glob over whole keys without the prefix; ``None`` matches every key
    :param consistent: whether to see every write that was completed before, at twice the price
    :param projection: request parameters that name the attributes to return; all if left out
    :param segments: into how many parts, to be read side by side, the table is divided
    """

    def __init__(
        self,
        table: Table,
        kind: str,
        prefix: str,
        pattern: str | None = None,
        *,
        consistent: bool,
        projection: Mapping[str, Any] | None = None,
        segments: int = 1,
    ) -> None:
        self._table = table
        self._matches = glob_matcher(pattern)
        self._kind = kind
        self._prefix = prefix
        self._parameters = {
            "TableName": table.name,
            "ConsistentRead": consistent,
            "FilterExpression": "begins_with(#pk, :start)",
            "ExpressionAttributeNames": {"#pk": "pk"},
            "ExpressionAttributeValues": {
                ":start": text(kind + prefix + literal_start(pattern or ""))
            },
            "TotalSegments": segments,
            **(projection or {}),
        }
        self._segments = segments
        self._unfinished = segments
        self._found_any = False

    async def page(self, after: Item | None, segment: int = 0) -> tuple[Found, Item | None]:
        """Read the next page of a segment.

        :param after: where the page begins, as the page before it said; ``None`` for the first one
        :returns: the items that match, and where the next page begins; ``None`` after the last one
        """
        parameters = {**self._parameters, "Segment": segment}
        if after is not None:
            parameters["ExclusiveStartKey"] = after
        answer = await self._table.send(
            "scan", parameters, timeout=max(self._table.timeout, READ_TIMEOUT)
        )
        items: list[Item] = answer.response["Items"]
        following: Item | None = answer.response.get("LastEvaluatedKey")
        self._found_any = self._found_any or bool(items)
        if following is None:
            self._unfinished -= 1
            if not self._unfinished and not self._found_any:
                await self._table.found_nothing()
        keyed = ((key_of(item, self._kind, self._prefix), item) for item in items)
        return [(key, item) for key, item in keyed if self._matches(key)], following

    async def for_each_page(self, use: Callable[[Found], Awaitable[None]]) -> None:
        """Pass every page to ``use``; all segments are read side by side."""

        async def read(segment: int) -> None:
            following: Item | None = None
            while True:
                found, following = await self.page(following, segment)
                await use(found)
                if following is None:
                    return

        async with side_by_side(self._segments) as start:
            for segment in range(self._segments):
                await start(partial(read, segment))


async def listed(
    table: Table, kind: str, prefix: str, pattern: str | None, decode: Callable[[Item], Record]
) -> dict[str, Record]:
    """Return the records of a kind whose keys match a pattern; one that is corrupt is left out."""
    scan = Scan(table, kind, prefix, pattern, consistent=True)
    records: dict[str, Record] = {}
    async for key, item in Pages(scan.page):
        try:
            records[key] = decode(item)
        except CorruptRecordError as error:
            leave_out(error)
    return records
