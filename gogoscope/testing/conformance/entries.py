"""Entries and changes that the tests of a place for entries write."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from attrs import evolve, frozen

from gogoscope.persistence import CompareAndSwap, Entry, json_kind

ids = count(1)


def an_entry(
    text: str = "{}",
    purge_at_ms: int | None = None,
    number: int = 1,
    writers: Iterable[str] | None = None,
) -> Entry:
    """Return an entry by a writer of its own."""
    return Entry(text, purge_at_ms, number, tuple(writers or (f"writer-{next(ids)}",)))


def after(seen: Entry, text: str = "{}", purge_at_ms: int | None = None) -> Entry:
    """Return an entry that somebody writes after another one."""
    return Entry(text, purge_at_ms, seen.number + 1, (*seen.writers, f"writer-{next(ids)}")[-32:])


def is_put(found: Entry | None, put: Entry) -> bool:
    """Return whether an entry is one that was put; a place may have raised its number."""
    return (
        found is not None and found.number >= put.number and evolve(found, number=put.number) == put
    )


@frozen
class Count:
    """What the tests of records count with."""

    n: int = 0


COUNT = json_kind("count", Count, lambda record, now_ms: None)


def increment(record: Count | None, now_ms: int) -> tuple[Count, int]:
    """Count one more."""
    n = (record or Count()).n + 1
    return Count(n), n


async def all_keys(place: CompareAndSwap, kind: str, prefix: str) -> list[str]:
    """Return the keys of all pages, each once."""
    found: dict[str, None] = {}
    after: str | None = None
    while True:
        page, after = await place.keys(kind, prefix, after)
        found.update(dict.fromkeys(page))
        if after is None:
            return sorted(found)
