"""The layout of a store's SQLite file: its version, and the steps from each version to the next.

A file says in its header that it is ours and which version its layout has. A newer program brings
an older file up to date when it opens it, in one transaction; an older program refuses a newer
file. Programs that have the file open meanwhile go on with the statements they know, so a step may
add to the layout but never take away from it.
"""

from __future__ import annotations

import sqlite3

from gogoscope.exceptions import PersistenceError

APPLICATION_ID = 0x676F676F

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE records (
            kind TEXT NOT NULL,
            key TEXT NOT NULL,
            purge_at INTEGER,
            content TEXT NOT NULL,
            PRIMARY KEY (kind, key)
        ) WITHOUT ROWID
        """,
    ),
)
"""The statements that lead from version 0, an empty file, to 1, from 1 to 2, and so on."""


def set_up(connection: sqlite3.Connection, path: str) -> None:
    """Make a fresh connection ready, and its file up to date.

    :raises PersistenceError: if the file is another program's or of a newer version, or cannot be
        shared by processes; it is left as it was
    """
    connection.execute("BEGIN")
    version = _version(connection, path)
    connection.execute("COMMIT")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise PersistenceError(
            f"the SQLite store {path!r} is on a file system without write-ahead logging"
        )
    connection.execute("PRAGMA synchronous = NORMAL")
    if version < len(STEPS):
        _migrate(connection, path)
    # Anybody may have written what is no UTF-8; it is decoded where that can be told of one record.
    connection.text_factory = bytes


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Read again, now that nobody else can be at it.
    for step in STEPS[_version(connection, path) :]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(STEPS)}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, path: str) -> int:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == APPLICATION_ID:
        if 0 < version <= len(STEPS):
            return version
        raise PersistenceError(
            f"the SQLite store {path!r} has schema version {version}; this version of gogoscope "
            f"knows {len(STEPS)} and older ones, so use a newer gogoscope, or another file"
        )
    if application_id or version or connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        raise PersistenceError(f"{path!r} is the SQLite file of another program")
    return 0
