"""A cache over any place for records."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from gogoscope._core.arguments import shown
from gogoscope._core.cancellation import checkpoint
from gogoscope.persistence.paging import KEYS_PER_PAGE, Pages
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.persistence.records.place import Kind, RecordCapability
from gogoscope.persistence.rules import cache as cache_rules
from gogoscope.persistence.rules.cache import CacheRecord
from gogoscope.persistence.validation import (
    check_keys,
    check_mapping,
    check_stale,
    check_ttl,
    glob_matcher,
    literal_start,
)
from gogoscope.persistence.values import decoded


def _dump(record: CacheRecord) -> str:
    if record.stale_ms or not record.content or record.content.startswith(_KEPT):
        return f"{_KEPT}{record.stale_ms}{_KEPT}{record.content}"
    return record.content


def _load(text: str, gone_at_ms: int | None) -> CacheRecord:
    if not text.startswith(_KEPT):
        return CacheRecord(text, gone_at_ms)
    stale, _, content = text[1:].partition(_KEPT)
    if not (stale.isascii() and stale.isdecimal() and len(stale) <= LONGEST_STALE):
        raise ValueError(f"it must be kept for a number of milliseconds, got {shown(stale)}")
    stale_ms = int(stale)
    return CacheRecord(content, None if gone_at_ms is None else gone_at_ms - stale_ms, stale_ms)


LONGEST_STALE = 18
"""How many digits the milliseconds have at most for which a value is kept."""
_KEPT = "~"
"""Stands, as it does before no JSON, before the milliseconds for which a value is kept."""

CACHE = Kind("cache", dump=_dump, load=_load, purge_at_ms=cache_rules.purge_at_ms)


class RecordCache(RecordCapability):
    """A ``CacheProvider``: every method is one read, one write or one transaction.

    Those of many keys are as much at once as the place can do.
    """

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if it has none."""
        record = await self._records.read(CACHE, self._full_key(key))
        if record is None or not record.is_live(self._records.now_ms()):
            return default
        return self._value(key, record)

    async def get_entry(
        self, key: str, *, latest: bool = False, stale: bool = False
    ) -> CacheEntry | None:
        """Return the value of a key with its end, or ``None`` if it has none.

        :param latest: nothing here, since every read sees the writes completed before it
        :param stale: whether to return an expired value that is still kept, too
        """
        record = await self._records.read(CACHE, self._full_key(key))
        now_ms = self._records.now_ms()
        if record is None or not (stale or record.is_live(now_ms)):
            return None
        left = math.inf if record.until_ms is None else (record.until_ms - now_ms) / 1000
        return CacheEntry(self._value(key, record), record.until_ms, left)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that have one."""
        wanted, values = check_keys(keys), dict[str, Any]()
        for begin in range(0, len(wanted) or 1, KEYS_PER_PAGE):
            # Page by page, since reading their values takes the event loop's time.
            full_keys = {
                self._key_prefix + key: key for key in wanted[begin : begin + KEYS_PER_PAGE]
            }
            found = await self._records.read_many(CACHE, list(full_keys))
            now_ms = self._records.now_ms()
            values |= {
                full_keys[key]: self._value(full_keys[key], record)
                for key, record in found.items()
                if record.is_live(now_ms)
            }
        return values

    async def set(
        self,
        key: str,
        value: Any,
        ttl: float | timedelta | None = None,
        *,
        if_absent: bool = False,
        stale: float | timedelta = 0,
    ) -> bool:
        """Set the value of a key, for ``ttl`` seconds or for ever.

        :param if_absent: whether to leave a key alone that has a value, in one atomic step
        :param stale: for how many seconds the value is kept after it has expired; only
            ``get_entry(stale=True)`` returns it then, but its key may still be listed
        :returns: whether the value was set; without ``if_absent`` it always is
        :raises TypeError: if the value cannot be stored faithfully; the message names the path
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        ttl_ms = _milliseconds(ttl)
        stale_ms = math.ceil(check_stale(stale) * 1000)
        content = self._codec.dumps(value)
        if if_absent:
            return await self._change(
                CACHE, key, cache_rules.put_if_absent, content, ttl_ms, stale_ms
            )
        await self._records.write(
            CACHE,
            self._full_key(key),
            lambda now_ms: cache_rules.fresh(now_ms, content, ttl_ms, stale_ms),
        )
        return True

    async def set_many(
        self, values: Mapping[str, Any], ttl: float | timedelta | None = None
    ) -> None:
        """Set the values of many keys, each for ``ttl`` seconds or for ever.

        :raises TypeError: if a value cannot be stored faithfully; nothing is set then
        :raises ValueError: likewise, or if ``ttl`` is out of range
        """
        contents: dict[str, str] = {}
        for key, value in list(check_mapping(values).items()):
            contents[self._full_key(key)] = self._codec.dumps(value)
            if len(contents) % KEYS_PER_PAGE == 0:
                await checkpoint()  # since making text of values takes the event loop's time
        ttl_ms = _milliseconds(ttl)
        await self._records.write_many(
            CACHE,
            list(contents),
            lambda full_key, now_ms: cache_rules.fresh(now_ms, contents[full_key], ttl_ms),
        )

    async def touch(self, key: str, ttl: float | timedelta | None = None) -> bool:
        """Let the value of a key end ``ttl`` seconds from now, or never; ``False`` if it has none.

        :raises ValueError: if ``ttl`` is out of range
        """
        return await self._change(CACHE, key, cache_rules.touch, _milliseconds(ttl))

    async def delete(self, key: str) -> bool:
        """Remove a key; ``False`` if it had no value."""
        return await self._change_or_remove(CACHE, key, cache_rules.delete) is not False

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many keys, whether or not they have a value."""
        full_keys = [self._key_prefix + key for key in check_keys(keys)]
        await self._records.write_many(CACHE, full_keys, lambda full_key, now_ms: None)

    async def has(self, key: str) -> bool:
        """Return whether a key has a value, ``None`` included."""
        record = await self._records.read(CACHE, self._full_key(key))
        return record is not None and record.is_live(self._records.now_ms())

    async def clear(self) -> None:
        """Remove every key below the store's prefix; touches no lock and no circuit."""
        await self._records.clear(CACHE, self._key_prefix)

    async def keys(self, pattern: str | None = None) -> list[str]:
        """List the keys that have a value, without the store's prefix, in no particular order.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        matching = self._matching(pattern)
        return matching(await self._records.keys(CACHE, self._start(pattern)))

    def iterate_keys(self, pattern: str | None = None) -> AsyncIterator[str]:
        """Return the keys that have a value one by one, read page by page: ``async for``.

        :param pattern: as in :meth:`keys`
        """
        matching = self._matching(pattern)
        start = self._start(pattern)

        async def read(after: str | None) -> tuple[list[str], str | None]:
            full_keys, following = await self._records.keys_after(CACHE, start, after)
            return matching(full_keys), following

        return Pages(read)

    def _value(self, key: str, record: CacheRecord) -> Any:
        return decoded(self._codec, record.content, self._key_prefix + key)

    def _start(self, pattern: str | None) -> str:
        return self._key_prefix + literal_start(pattern or "")

    def _matching(self, pattern: str | None) -> Callable[[list[str]], list[str]]:
        matches = glob_matcher(pattern)
        cut = len(self._key_prefix)
        return lambda full_keys: [key for full in full_keys if matches(key := full[cut:])]


def _milliseconds(ttl: float | timedelta | None) -> int | None:
    return None if ttl is None else math.ceil(check_ttl(ttl) * 1000)
