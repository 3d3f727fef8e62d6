"""A store for gogoscope in a folder of plain files, one for each record.

Every access holds a lock of the operating system, and a record is replaced by renaming a complete
file. So a process that is killed releases its lock and leaves no half-written record behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from anyio import CapacityLimiter, to_thread

from gogoscope.exceptions import InvalidURLError, PersistenceError
from gogoscope.persistence import (
    Answer,
    Change,
    Clock,
    Kind,
    Life,
    PersistenceURL,
    Record,
    Records,
    RecordStore,
    Steady,
    check_key_prefix,
    current_clock,
)


class FolderStore(RecordStore):
    """Locks, circuit breakers and a cache in a folder; open inside ``async with``."""

    def __init__(
        self, folder: str | Path, *, key_prefix: str = "", clock: Clock = current_clock
    ) -> None:
        self._folder = LockedFolder(Path(folder))
        super().__init__(_FolderRecords(self._folder, clock), key_prefix=key_prefix)

    async def __aenter__(self) -> Self:
        await self._folder.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the store; it may be opened again."""
        self._folder.close()


def from_url(url: PersistenceURL) -> FolderStore:
    """Return the store of ``folder:///absolute/path``; it takes the option ``key_prefix``."""
    options = url.convert_options(key_prefix=check_key_prefix)
    if not url.location.startswith("/"):
        raise InvalidURLError(f"{url.url!r} is not folder:///absolute/path")
    return FolderStore(url.location, **options)


class LockedFolder:
    """A folder that one process at a time works in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._threads: CapacityLimiter
        self._life = Life(f"the store in {path}")

    async def open(self) -> None:
        self._life.begin()
        self._threads = CapacityLimiter(1)
        try:
            await self.run(lambda: None)
        except BaseException:
            self._life.end()
            raise

    def close(self) -> None:
        if self._life.may_close():
            self._life.end()

    async def run(self, work: Callable[[], Answer]) -> Answer:
        self._life.check()
        try:
            return await to_thread.run_sync(self._locked, work, limiter=self._threads)
        except OSError as error:
            raise PersistenceError(f"the store in {self.path} failed: {error}") from error

    def replace(self, file: Path, text: str) -> None:
        written = self.path / "written"
        written.write_text(text)
        written.replace(file)

    def _locked(self, work: Callable[[], Answer]) -> Answer:
        with (self.path / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file, or dying, releases it
            return work()


class _FolderRecords(Records):
    def __init__(self, folder: LockedFolder, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def now_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def steady(self) -> Steady:
        return Steady.of(self._clock)  # the folder is one machine's: leases need no wall clock

    async def read(self, kind: Kind[Record], key: str) -> Record | None:
        return await self._folder.run(lambda: self._load(kind, key))

    async def transact(
        self, kind: Kind[Record], key: str, change: Change[Record, Answer]
    ) -> Answer:
        def work() -> Answer:
            record = self._load(kind, key)
            changed, answer = change(record, self.now_ms())
            if changed is None:
                self._path(kind, key).unlink(missing_ok=True)
            elif changed is not record:
                self._save(kind, key, changed)
            return answer

        return await self._folder.run(work)

    async def write(self, kind: Kind[Record], key: str, make: Callable[[int], Record]) -> None:
        await self._folder.run(lambda: self._save(kind, key, make(self.now_ms())))

    async def keys(self, kind: Kind[Any], prefix: str) -> list[str]:
        found = await self._folder.run(lambda: list(self._files(kind, prefix)))
        return [key for key, purge_at_ms, _ in found if not self._is_gone(purge_at_ms)]

    async def clear(self, kind: Kind[Any], prefix: str) -> None:
        def work() -> None:
            for _, _, path in self._files(kind, prefix):
                path.unlink()

        await self._folder.run(work)

    def _path(self, kind: Kind[Any], key: str) -> Path:
        return self._folder.path / f"{kind.name}-{hashlib.sha256(key.encode()).hexdigest()}"

    def _files(self, kind: Kind[Any], prefix: str) -> Iterator[tuple[str, int | None, Path]]:
        for path in self._folder.path.glob(f"{kind.name}-*"):
            file = json.loads(path.read_text())
            if file["key"].startswith(prefix):
                yield file["key"], file["purge_at_ms"], path

    def _load(self, kind: Kind[Record], key: str) -> Record | None:
        path = self._path(kind, key)
        file = json.loads(path.read_text()) if path.exists() else None
        if file is None or self._is_gone(file["purge_at_ms"]):
            return None
        return kind.restore(key, file["text"], file["purge_at_ms"])

    def _save(self, kind: Kind[Record], key: str, record: Record) -> None:
        purge_at_ms = kind.purge_at_ms(record, self.now_ms())
        file = {"key": key, "purge_at_ms": purge_at_ms, "text": kind.dump(record)}
        self._folder.replace(self._path(kind, key), json.dumps(file))

    def _is_gone(self, purge_at_ms: int | None) -> bool:
        return purge_at_ms is not None and purge_at_ms <= self.now_ms()
