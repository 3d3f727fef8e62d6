"""The statements of a store, in the words of PostgreSQL.

The parameters of those that write are the kind, the key, and the columns in their order; ``$7`` is
the writer, ``$9`` the one that was seen. They answer with the row as JSON where the writer is
another: where it was not written, or others have written since. (To plan a statement takes longer
than to run it, so those with few expressions are the fast ones.)

A statement that clears waits for those who change a row, maybe for longer than anybody waits for
its answer. So it removes a row only if it still has the writer that it had at the beginning.

To tell of a change is dear: the server lets one transaction after the other do that. So it is told
only if somebody waits. Whoever does shares an advisory lock of the key (``$10``), which then cannot
be had alone, for the moment of the change.
"""
# ruff: noqa: S608 - the name of the table was checked and quoted

from __future__ import annotations

from collections.abc import Iterable

from gogoscope.stores.postgres.schema import COLUMNS, NOW

HIGHEST_NUMBER = 10**18
"""A number above it was written by nobody of ours. So there is always room above one of ours."""
CHANNEL = b"gogoscope"
"""On which those who wait are told of changes; what is told is a kind, ``:`` and a key."""


class Statements:
    """The statements for a table, given by its quoted name; every row begins with the time."""

    def __init__(self, table: str) -> None:
        answer = f"RETURNING {NOW}, CASE WHEN r.writer = $7 THEN NULL ELSE row_to_json(r) END"
        brought = {column: f"${n}" for n, column in enumerate(COLUMNS, start=3)}
        excluded = {column: f"excluded.{column}" for column in COLUMNS}
        insert = (
            f"INSERT INTO {table} AS r (kind, key, {', '.join(COLUMNS)}) "
            f"VALUES ($1, $2, {', '.join(brought.values())}) ON CONFLICT (kind, key) DO UPDATE SET "
        )
        key_range = (
            f"FROM {table} WHERE kind = $1 AND key >= $2 AND ($3::text IS NULL OR key < $3) "
            "AND ($4::text IS NULL OR key > $4)"
        )
        self.load = (
            f"SELECT {NOW}, row_to_json(r) FROM {table} AS r WHERE kind = $1 AND key = $2"
        ).encode()
        self.insert = f"{insert} writer = r.writer {answer}".encode()
        older = f"(r.number < excluded.number OR r.number > {HIGHEST_NUMBER})"
        self.put = f"{insert} {_if(older, excluded)} {answer}".encode()
        self.update = (
            f"UPDATE {table} AS r SET {_if('r.writer = $9', brought)} "
            f"WHERE r.kind = $1 AND r.key = $2 {answer}"
        ).encode()
        self.update_and_tell = self.update + (
            b", CASE WHEN r.writer = $7 AND NOT pg_try_advisory_xact_lock($10::bigint) "
            b"THEN pg_notify('%s', $1 || ':' || $2)::text END" % CHANNEL
        )
        self.keys = (
            f"SELECT {NOW}, key {key_range} AND (purge_at IS NULL OR purge_at > $5) "
            "ORDER BY key LIMIT $6"
        ).encode()
        self.clear = (
            f"WITH page AS (SELECT key, writer {key_range} ORDER BY key LIMIT $5), "
            f"gone AS (DELETE FROM {table} AS r USING page "
            "WHERE r.kind = $1 AND r.key = page.key AND r.writer = page.writer) "
            f"SELECT {NOW}, max(key) FROM page"
        ).encode()
        self.sweep = (
            f"WITH gone AS (DELETE FROM {table} "
            "WHERE ctid >= $1::tid AND ctid < $2::tid AND purge_at <= $3) "
            f"SELECT {NOW}, (pg_relation_size('{table}') / "
            "current_setting('block_size')::bigint)::text"
        ).encode()


def _if(condition: str, values: dict[str, str]) -> str:
    """Return the assignments that set columns to values if a condition holds."""
    return _listing(
        f"{column} = CASE WHEN {condition} THEN {value} ELSE r.{column} END"
        for column, value in values.items()
    )


def _listing(parts: Iterable[str]) -> str:
    return ", ".join(parts)
