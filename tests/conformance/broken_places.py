"""Places for entries that are each wrong in one way; test_kit_finds_what_is_broken judges them.

Its name keeps pytest from collecting it unless it is named on the command line.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve

from gogoscope.persistence import CompareAndSwap, Entry, Swapped
from gogoscope.persistence.watching import Changed, Stop, Watchers
from gogoscope.testing.conformance import CompareAndSwapConformance, OpenLossyPlace, OpenPlace
from tests.support.entries import DictPlace, LossyPlace


class Broken(CompareAndSwapConformance):
    """A place in a dict, on asyncio alone: what is wrong does not depend on the event loop."""

    works_after_close: ClassVar = True
    place_type: ClassVar[type[Any]] = DictPlace
    lossy_type: ClassVar[type[Any]] = LossyPlace

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def entries(self) -> dict[Any, Entry]:
        return {}

    @pytest.fixture
    def open_place(self, entries: dict[Any, Entry]) -> OpenPlace:
        @asynccontextmanager
        async def open_place() -> AsyncIterator[CompareAndSwap]:
            place: DictPlace = self.place_type()
            place.entries = entries
            yield place

        return open_place

    @pytest.fixture
    def open_lossy_place(self, entries: dict[Any, Entry]) -> OpenLossyPlace:
        @asynccontextmanager
        async def open_place(lose: Callable[[], bool]) -> AsyncIterator[CompareAndSwap]:
            place: LossyPlace = self.lossy_type(lose)
            place.entries = entries
            yield place

        return open_place


class TestAnIdOfAWriterIsLost(Broken):
    class place_type(DictPlace):  # noqa: N801 - overrides the attribute
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            return await super().swap(kind, key, seen, evolve(new, writers=new.writers[-8:]))


class TestSwapIgnoresWhatWasSeen(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            if seen is None:
                return await super().swap(kind, key, seen, new)
            await self.put(kind, key, new)
            return Swapped(True)


class TestAbsenceIsNotChecked(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            if seen is not None:
                return await super().swap(kind, key, seen, new)
            await self.put(kind, key, new)
            return Swapped(True)


class TestSwapIsNotAtomic(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            answer = await super().swap(kind, key, seen, new)
            if answer.swapped:
                self.entries.pop((kind, key))
                if seen is not None:
                    self.entries[kind, key] = seen
                await anyio.lowlevel.checkpoint()
                self.entries[kind, key] = new
            return answer


class TestNumbersAreCompared(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            found = self.entries.get((kind, key))
            if found is not None and seen is not None and found.number == seen.number:
                seen = found
            return await super().swap(kind, key, seen, new)


class TestAnOldEntryIsShownAsTheNewest(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            answer = await super().swap(kind, key, seen, new)
            return answer if answer.swapped or seen is None else evolve(answer, found=seen)


class TestLoadRemembers(Broken):
    class place_type(DictPlace):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.loaded: dict[tuple[str, str], Entry] = {}

        async def load(self, kind: str, key: str) -> Entry | None:
            if (kind, key) not in self.loaded:
                found = await super().load(kind, key)
                if found is None:
                    return None
                self.loaded[kind, key] = found
            return self.loaded[kind, key]


class TestPutKeepsThePurgeTime(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def put(self, kind: str, key: str, new: Entry) -> None:
            found = self.entries.get((kind, key))
            if found is not None and new.purge_at_ms is None:
                new = evolve(new, purge_at_ms=found.purge_at_ms)
            await super().put(kind, key, new)


class TestPutDoesNotReplace(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def put(self, kind: str, key: str, new: Entry) -> None:
            if (kind, key) not in self.entries:
                await super().put(kind, key, new)


class TestDoubtIsNeverTold(Broken):
    class lossy_type(LossyPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            return evolve(await super().swap(kind, key, seen, new), in_doubt=False)


class TestALostAnswerIsASuccess(Broken):
    class lossy_type(LossyPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            answer = await super().swap(kind, key, seen, new)
            return Swapped(True) if answer.in_doubt else answer


class TestPurgedTooEarly(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def load(self, kind: str, key: str) -> Entry | None:
            found = await super().load(kind, key)
            if found and found.purge_at_ms and found.purge_at_ms <= self.now_ms():
                del self.entries[kind, key]
                return None
            return found


class TestPurgeTimesAreIgnored(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def keys(
            self, kind: str, prefix: str, after: str | None
        ) -> tuple[list[str], str | None]:
            there = [key for name, key in self.entries if name == kind and key.startswith(prefix)]
            return there, None


class TestPrefixesAreGlobs(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def clear(self, kind: str, prefix: str) -> None:
            for name, key in list(self.entries):
                if name == kind and fnmatchcase(key, f"{prefix}*"):
                    del self.entries[name, key]


class TestKindsStartAlike(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def clear(self, kind: str, prefix: str) -> None:
            for name, key in list(self.entries):
                if f"{name}{key}".startswith(f"{kind}{prefix}"):
                    del self.entries[name, key]


class TestOnlyThePageIsListed(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def keys(
            self, kind: str, prefix: str, after: str | None
        ) -> tuple[list[str], str | None]:
            page, _ = await super().keys(kind, prefix, after)
            return page, None


class TestTheClockStands(Broken):
    class place_type(DictPlace):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.opened_ms = super().now_ms()

        def now_ms(self) -> int:
            return self.opened_ms


class TestTellsWhoeverHasStopped(Broken):
    class place_type(DictPlace):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.watchers = Watchers()

        def watch(self, kind: str, key: str, changed: Changed) -> Stop:
            self.watchers.add(key, changed)
            return lambda: None

        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            answer = await super().swap(kind, key, seen, new)
            self.watchers.tell(key)
            return answer


class TestCancelledHalfWay(Broken):
    class place_type(DictPlace):  # noqa: N801
        async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
            answer = await super().swap(kind, key, seen, evolve(new, purge_at_ms=None))
            await anyio.lowlevel.checkpoint()
            if answer.swapped:
                self.entries[kind, key] = new
            return answer
