"""What the capabilities on a table have in common."""

from __future__ import annotations

from datetime import timedelta

from attrs import field, frozen

from gogoscope._core.clock import Clock, current_clock
from gogoscope._core.durations import seconds
from gogoscope.persistence.validation import check_key_prefix
from gogoscope.persistence.values import Codec, JSONCodec
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import Item


def _skew(value: float | timedelta) -> float:
    return seconds("max_clock_skew", value, zero=True)


@frozen
class Settings:
    """How a store uses its table.

    ``key_prefix`` stands before every key; ``max_clock_skew`` is the largest difference between
    two clocks of the fleet, in seconds; ``clock`` is what it tells the time by;
    ``codec`` turns cached values into text and back; ``consistent_reads`` lets the cache read
    what was written last.
    """

    key_prefix: str = field(default="", converter=check_key_prefix)
    max_clock_skew: float = field(default=0.05, converter=_skew)
    clock: Clock = current_clock
    codec: Codec = field(factory=JSONCodec)
    consistent_reads: bool = False


class Capability:
    """Keys below a prefix in a table, and the clock that leases and expiries are written by."""

    def __init__(self, table: Table, settings: Settings) -> None:
        self._table = table
        self._settings = settings

    def _now_ms(self) -> int:
        return int(self._settings.clock.wall() * 1000)

    def _key(self, kind: str, key: str) -> Item:
        return schema.item_key(kind, self._settings.key_prefix, key)
