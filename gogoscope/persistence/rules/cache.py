"""How a cached value changes, by rules of the form that :mod:`gogoscope.persistence.rules` says.

A value is live until its time is over. It may be kept longer than that, for callers that ask for
old values; to everybody else its key then has no value.
"""

from __future__ import annotations

from attrs import evolve, frozen


@frozen
class CacheRecord:
    """A cached value: what the codec made of it, when it ends, and how long it is kept then.

    ``until_ms`` is ``None`` for a value that never ends.
    """

    content: str
    until_ms: int | None = None
    stale_ms: int = 0

    @property
    def gone_at_ms(self) -> int | None:
        """The time from which on nobody can read it, ``None`` for never."""
        return None if self.until_ms is None else self.until_ms + self.stale_ms

    def is_live(self, now_ms: int) -> bool:
        """Return whether its time is not over."""
        return self.until_ms is None or self.until_ms > now_ms


def put_if_absent(
    record: CacheRecord | None, now_ms: int, content: str, ttl_ms: int | None, stale_ms: int
) -> tuple[CacheRecord, bool]:
    """Set the value of a key that has none."""
    if record is not None and record.is_live(now_ms):
        return record, False
    return fresh(now_ms, content, ttl_ms, stale_ms), True


def touch(
    record: CacheRecord | None, now_ms: int, ttl_ms: int | None
) -> tuple[CacheRecord | None, bool]:
    """Let a live value end ``ttl_ms`` from now, or never."""
    if record is None or not record.is_live(now_ms):
        return record, False
    return evolve(record, until_ms=_end(now_ms, ttl_ms)), True


def delete(record: CacheRecord | None, now_ms: int) -> tuple[None, bool]:
    """Remove a value; the answer is whether it was live."""
    return None, record is not None and record.is_live(now_ms)


def purge_at_ms(record: CacheRecord, now_ms: int) -> int | None:
    """Return the time from which on nobody can read the value, ``None`` for never."""
    return record.gone_at_ms


def fresh(now_ms: int, content: str, ttl_ms: int | None, stale_ms: int = 0) -> CacheRecord:
    """Return a value that is set now."""
    return CacheRecord(content, _end(now_ms, ttl_ms), stale_ms)


def _end(now_ms: int, ttl_ms: int | None) -> int | None:
    return None if ttl_ms is None else now_ms + ttl_ms
