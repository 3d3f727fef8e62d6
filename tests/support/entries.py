"""A place for entries in a dict, and one that loses answers."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
from attrs import evolve

from gogoscope._core.clock import Clock, current_clock
from gogoscope.persistence import KEEP_MS, ClockSteps, CompareAndSwap, Entry, Swapped, uniform
from gogoscope.persistence.watching import Changed, Stop


class DictPlace(CompareAndSwap):
    """Entries in a dict; ``requests`` counts the methods that a server would answer."""

    def __init__(self, clock: Clock = current_clock, page: int = 100) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        self.requests = 0
        self._clock = clock
        self._steps = ClockSteps(clock)
        self._steps.stepped()
        self._page = page

    def now_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def clock_was_set(self) -> bool:
        return self._steps.stepped()

    async def load(self, kind: str, key: str) -> Entry | None:
        await self._request()
        return self.entries.get((kind, key))

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        await self._request()
        found = self.entries.get((kind, key))
        if (found and found.writer) != (seen and seen.writer):
            return Swapped(False, found)
        self.entries[kind, key] = new
        return Swapped(True)

    async def put(self, kind: str, key: str, new: Entry) -> None:
        await self._request()
        self.entries[kind, key] = new

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        await self._request()
        now_ms = self.now_ms()
        there = sorted(
            key
            for (name, key), entry in self.entries.items()
            if name == kind and key.startswith(prefix) and key > (after or "")
            if entry.purge_at_ms is None or entry.purge_at_ms > now_ms
        )
        page = there[: self._page]
        return page, page[-1] if len(there) > len(page) else None

    async def clear(self, kind: str, prefix: str) -> None:
        await self._request()
        for name, key in list(self.entries):
            if name == kind and key.startswith(prefix):
                del self.entries[name, key]

    def purge(self) -> None:
        """Remove what is long gone, as a server would."""
        end = self.now_ms() - KEEP_MS
        for place, entry in list(self.entries.items()):
            if entry.purge_at_ms is not None and entry.purge_at_ms <= end:
                del self.entries[place]

    async def _request(self) -> None:
        self.requests += 1
        await anyio.lowlevel.checkpoint()


class LossyPlace(DictPlace):
    """Loses the answers to some swaps, and then tries again as a client of a server would.

    :param lose: decides for each answer whether it is lost
    :param pause: for how many seconds a lost answer is waited for, at most
    """

    def __init__(self, lose: Callable[[], bool], pause: float = 0.0) -> None:
        super().__init__()
        self.lost = 0
        self._lose = lose
        self._pause = pause

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        answer = await super().swap(kind, key, seen, new)
        while self._lose():
            self.lost += 1
            await anyio.sleep(uniform(0, self._pause))
            again = await super().swap(kind, key, seen, new)
            answer = evolve(again, in_doubt=not again.swapped)
        return answer


class Below(CompareAndSwap):
    """A part of a place that others use, too: all keys below a prefix.

    :param place: the place
    :param prefix: stands before every key
    """

    def __init__(self, place: CompareAndSwap, prefix: str) -> None:
        self._place = place
        self._prefix = prefix

    def now_ms(self) -> int:
        return self._place.now_ms()

    def clock_was_set(self) -> bool:
        return self._place.clock_was_set()

    def knows_the_time(self) -> bool:
        return self._place.knows_the_time()

    def clock_error_ms(self) -> int:
        return self._place.clock_error_ms()

    async def load(self, kind: str, key: str) -> Entry | None:
        return await self._place.load(kind, self._prefix + key)

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        return await self._place.swap(kind, self._prefix + key, seen, new)

    async def put(self, kind: str, key: str, new: Entry) -> None:
        await self._place.put(kind, self._prefix + key, new)

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        page, following = await self._place.keys(kind, self._prefix + prefix, after)
        return [key[len(self._prefix) :] for key in page], following

    async def clear(self, kind: str, prefix: str) -> None:
        await self._place.clear(kind, self._prefix + prefix)

    def watch(self, kind: str, key: str, changed: Changed) -> Stop:
        return self._place.watch(kind, self._prefix + key, changed)
