"""Writes of one key in turn, each with a name by which its echo is recognised.

A write that adds cannot tell from the sum whether an earlier try of it was applied. So it leaves
its name in the item; as there is room for one name only, the next write waits for its turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from attrs import define, field

from gogoscope.exceptions import PersistenceError

REMEMBERED = 1024


@define
class _Lane:
    name: int
    lock: anyio.Lock = field(factory=anyio.Lock)
    users: int = 0
    failures: int = 0
    failure: PersistenceError | None = None


class Turns:
    """Gives out turns, key by key; its memory does not grow with the keys.

    :param now_ms: gives the wall clock in milliseconds
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lanes: dict[str, _Lane] = {}
        self._last_names: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[int]:
        """Wait for a turn and give its name: the time, made unique for the key.

        :raises PersistenceError: if the store failed for good while the turn was waited for
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self._last_names.get(key, 0))
        failures = lane.failures
        lane.users += 1
        try:
            async with lane.lock:
                if lane.failure is not None and lane.failures != failures:
                    raise type(lane.failure)(
                        f"the write before this one failed: {lane.failure}"
                    ) from lane.failure
                lane.name = max(self._now_ms(), lane.name + 1)
                try:
                    yield lane.name
                except PersistenceError as error:
                    if error.retryable:
                        lane.failures += 1
                        lane.failure = error
                    raise
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[key]
                self._remember(key, lane.name)

    def _remember(self, key: str, name: int) -> None:
        """Keep the last name of an idle key for as long as the clock could give it again."""
        self._last_names.pop(key, None)
        self._last_names[key] = name
        now_ms = self._now_ms()
        for oldest, last in list(self._last_names.items()):
            if last >= now_ms and len(self._last_names) <= REMEMBERED:
                break
            del self._last_names[oldest]
