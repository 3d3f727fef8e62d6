"""Turns: one write of a key at a time, each with a name of its own.

A write that adds to a number cannot tell from the sum whether an earlier try of it was applied. So
it leaves its name in the item, where a refused second try finds it. The item keeps one name of each
process. The next write of this process would replace it, so that write waits for its turn, until
the one before it is answered.

Invariants:

- The names of a key only grow, and each is used once by this store: a name is the time in
  milliseconds, or one more than the name before it if the clock stands still or is set back.
- When the store fails for good for one write, those that already wait for their turn fail with it
  at once, instead of one timeout after the other.
- Memory does not grow with the keys: a lane exists while somebody uses it. The last name of an
  idle key is kept as long as the clock could return it again, for at most ``REMEMBERED`` keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from attrs import define, field

from gogoscope.exceptions import Effect, PersistenceError
from gogoscope.persistence import uniform

REMEMBERED = 1024
LONGEST_STEP = 64


@define
class _Lane:
    """The writes of one key that run or wait.

    ``name`` is the one that was used last; ``users`` counts the writes; ``failures`` counts those
    for which the store failed, so that a write sees whether one failed while it waited, and
    ``failure`` is the last of these errors.
    """

    name: int
    lock: anyio.Lock = field(factory=anyio.Lock)
    users: int = 0
    failures: int = 0
    failure: PersistenceError | None = None


class Turns:
    """The turns of a store, key by key.

    :param now_ms: returns the time in milliseconds since the Unix epoch
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lanes: dict[str, _Lane] = {}
        self._last_names: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[int]:
        """Wait for a turn; the block gets its name.

        :raises PersistenceError: if the store failed for a write of the key in the meantime
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self._last_names.get(key, 0))
        failures = lane.failures
        lane.users += 1
        try:
            async with lane.lock:
                if lane.failure is not None and lane.failures != failures:
                    failed = type(lane.failure)(f"the write before this one failed: {lane.failure}")
                    failed.effect = Effect.NOT_SENT
                    raise failed from lane.failure
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

    def rename(self, key: str, last: int) -> int:
        """Return another name for the write whose turn it is: another store used a later one.

        By chance it is some more than that, so that two stores do not keep step with each other.

        :param last: the later name
        """
        lane = self._lanes[key]
        lane.name = max(lane.name, last) + int(uniform(1, LONGEST_STEP))
        return lane.name

    def _remember(self, key: str, name: int) -> None:
        """Keep the last name of an idle key for as long as the clock could return it again."""
        self._last_names.pop(key, None)
        self._last_names[key] = name
        now_ms = self._now_ms()
        for oldest, last in list(self._last_names.items()):
            if last >= now_ms and len(self._last_names) <= REMEMBERED:
                break
            del self._last_names[oldest]
