"""The same folder one level lower: one conditional write is all that it needs.

It keeps entries in files of its own, so its folder is not one of ``gogoscope_folder``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from gogoscope_folder import LockedFolder

from gogoscope.persistence import (
    Clock,
    ClockSteps,
    CompareAndSwap,
    CompareAndSwapRecords,
    Entry,
    RecordStore,
    Swapped,
    current_clock,
)


class SwappingFolderStore(RecordStore):
    """Every capability in a folder; open inside ``async with``."""

    def __init__(
        self, folder: str | Path, *, key_prefix: str = "", clock: Clock = current_clock
    ) -> None:
        self.folder = LockedFolder(Path(folder))
        self.entries = FolderEntries(self.folder, clock)
        super().__init__(CompareAndSwapRecords(self.entries), key_prefix=key_prefix)

    async def __aenter__(self) -> Self:
        await self.folder.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the store; it may be opened again."""
        self.folder.close()


class FolderEntries(CompareAndSwap):
    """A place for entries: one file for each."""

    def __init__(self, folder: LockedFolder, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._steps = ClockSteps(clock)

    def now_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def clock_was_set(self) -> bool:
        return self._steps.stepped()

    async def load(self, kind: str, key: str) -> Entry | None:
        return await self._folder.run(lambda: self._read(kind, key))

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        def work() -> Swapped:
            found = self._read(kind, key)
            if (found and found.writer) != (seen and seen.writer):
                return Swapped(swapped=False, found=found)
            self._write(kind, key, new)
            return Swapped(swapped=True)

        return await self._folder.run(work)

    async def put(self, kind: str, key: str, new: Entry) -> None:
        await self._folder.run(lambda: self._write(kind, key, new))

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        now_ms = self.now_ms()
        files = await self._folder.run(lambda: list(self._files(kind, prefix)))
        return [key for key, purge_at, _ in files if purge_at is None or purge_at > now_ms], None

    async def clear(self, kind: str, prefix: str) -> None:
        def work() -> None:
            for _, _, path in self._files(kind, prefix):
                path.unlink()

        await self._folder.run(work)

    def _path(self, kind: str, key: str) -> Path:
        name = f"{kind}-{hashlib.sha256(key.encode()).hexdigest()}.json"
        return self._folder.path / name

    def _read(self, kind: str, key: str) -> Entry | None:
        path = self._path(kind, key)
        if not path.exists():
            return None
        file = json.loads(path.read_text())
        return Entry(file["text"], file["purge_at_ms"], file["number"], tuple(file["writers"]))

    def _write(self, kind: str, key: str, new: Entry) -> None:
        names = ("text", "purge_at_ms", "number", "writers")
        file = {"key": key} | {name: getattr(new, name) for name in names}
        self._folder.replace(self._path(kind, key), json.dumps(file))

    def _files(self, kind: str, prefix: str) -> Iterator[tuple[str, int | None, Path]]:
        for path in self._folder.path.glob(f"{kind}-*.json"):
            file = json.loads(path.read_text())
            if file["key"].startswith(prefix):
                yield file["key"], file["purge_at_ms"], path
