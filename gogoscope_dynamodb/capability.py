"""What the capabilities on a table have in common: the table, the settings, keys and the time."""

from __future__ import annotations

from attrs import frozen

from gogoscope.persistence import Clock, Codec
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import Item
from gogoscope_dynamodb.trust import Trust


@frozen
class Settings:
    """How a store uses its table; the parameters of the store have the same names.

    ``max_clock_skew`` is in seconds.
    """

    key_prefix: str
    max_clock_skew: float
    clock: Clock
    codec: Codec
    consistent_reads: bool


class Capability:
    """A capability whose items are below a prefix in a table.

    ``_last_stamp`` is the last stamp of the store: stamps put writes in order.

    :param table: the table
    :param settings: checked settings
    """

    def __init__(self, table: Table, settings: Settings) -> None:
        self._table = table
        self._settings = settings
        self._trust = Trust(settings.clock)
        self._last_stamp = 0

    def _now_ms(self) -> int:
        return int(self._settings.clock.wall() * 1000)

    def _stamp(self, now_ms: int) -> int:
        """Return a stamp for a write that begins now: the clock in microseconds, made to grow."""
        self._last_stamp = max(now_ms * 1000, self._last_stamp + 1)
        return self._last_stamp

    def _allowed_skew_ms(self) -> int:
        return schema.milliseconds(self._settings.max_clock_skew)

    def _key(self, kind: str, key: str) -> Item:
        return schema.item_key(kind, self._settings.key_prefix, key)
