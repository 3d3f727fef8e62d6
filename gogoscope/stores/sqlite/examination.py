"""What a SQLite file and its disk tell."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gogoscope.persistence import Finding, told_size

LEAST_FREE = 100_000_000
LARGE_LOG = 64_000_000


def findings(connection: sqlite3.Connection, path: str) -> list[Finding]:
    """Look at an open file, in the thread that uses it."""
    return list(_findings(connection, Path(path)))


def _findings(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    yield Finding("server", "fine", f"none; SQLite {sqlite3.sqlite_version} in this process")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    size = told_size(path.stat().st_size)
    yield Finding("file", "fine", f"{path.resolve()}, schema version {version}, {size}")
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    log = path.with_name(f"{path.name}-wal")
    logged = log.stat().st_size if log.exists() else 0
    found = f"journal mode {_text(mode)}, {told_size(logged)} in the write-ahead log"
    if logged < LARGE_LOG:
        yield Finding("journal", "fine", found)
    else:
        advice = "look for a process that keeps a read transaction open: the log cannot shrink"
        yield Finding("journal", "wrong", found, advice)
    free = shutil.disk_usage(path.parent).free
    if free >= LEAST_FREE:
        yield Finding("disk", "fine", f"{told_size(free)} free")
    else:
        yield Finding("disk", "wrong", f"{told_size(free)} free", "free some space")
    yield Finding("clock", "fine", "that of this machine, which all who share the file have")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
