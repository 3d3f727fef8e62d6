"""The table of a store: its columns, its version, and how it is made and checked.

A comment on the table says that it is ours and which version its columns have. Each row says which
format its text and its writers have. A program that knows another version refuses the table and
leaves it untouched.

Keys are compared byte by byte (``COLLATE "C"``), so that a prefix is a range of the primary key,
whatever the language of the database. No other column has an index: so a change writes one new row
version and no index entry, as long as there is room on its page, for which ``fillfactor`` leaves
some.
"""

from __future__ import annotations

import re

from gogoscope.exceptions import ConfigurationError
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.stores.postgres.connection import TAG

VERSION = 1
FORMAT = 1
COLUMNS = ("format", "content", "purge_at", "number", "writer", "writers")
"""The columns of a row besides those of its key."""

NOW = f'clock_timestamp() AS "{TAG.decode()}"'
"""The first column of every answer: the server's time."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_TABLE = re.compile(rf"(?:({_NAME})\.)?({_NAME})")
_MARK = "gogoscope, version "


def check_table(name: str) -> str:
    """Return the name of a table, quoted.

    :raises TypeError: if it is no ``str``
    :raises ValueError: if it is none that needs no quotes, or is too long
    """
    if not isinstance(name, str):
        raise TypeError(f"table must be a str, got {name!r} of type {type(name).__name__}")
    found = _TABLE.fullmatch(name)
    if found is None:
        raise ValueError(
            "table must be letters, digits and '_', with a schema and '.' in front or not, and of "
            f"at most 63 characters, got {name!r}"
        )
    return ".".join(f'"{part}"' for part in found.groups() if part is not None)


async def set_up(client: PostgresClient, table: str, *, create: bool) -> None:
    """Make sure that a table is there, and is one that this program knows.

    :param table: its quoted name
    :param create: whether to make it if it is not there; several programs may do so at once
    :raises ConfigurationError: if it is not there, or another one
    """
    found = await _look(client, table)
    if found is None and create:
        await client.run(_CREATE.replace(b"%TABLE", table.encode()), writes=True)
        found = await _look(client, table)
    if found is None:
        raise ConfigurationError(
            f"there is no table {table} at {client.where!r}; open the store once with the option "
            "create=true, as a user that may make tables"
        )
    encoding, comment = found
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the database at {client.where!r} has the encoding {encoding}, but keys need UTF8"
        )
    if comment != f"{_MARK}{VERSION}":
        version = comment.removeprefix(_MARK)
        raise ConfigurationError(
            f"the table {table} at {client.where!r} is not one of this version of gogoscope, which "
            f"has the comment {_MARK}{VERSION}; "
            + (
                f"it has version {version}, so use another gogoscope, or another table"
                if comment.startswith(_MARK)
                else "it seems to be another program's, so use another table"
            )
        )


async def _look(client: PostgresClient, table: str) -> tuple[str, str] | None:
    """Return the encoding of the database and the comment on a table, ``None`` if there is none."""
    reply = await client.run(_LOOK, table)
    ((encoding, there, comment),) = reply.rows
    return ((encoding or b"").decode(), (comment or b"").decode()) if there is not None else None


_LOOK = f"""
SELECT {NOW}, current_setting('server_encoding'), to_regclass($1)::oid::text,
    obj_description(to_regclass($1), 'pg_class')
""".encode()

# Two that make the same table at once would be in each other's way. The lock ends with this.
_CREATE = f"""
DO $make$ BEGIN
    PERFORM pg_advisory_xact_lock(7453010326121640545);
    CREATE TABLE IF NOT EXISTS %TABLE (
        kind text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        format smallint NOT NULL,
        content text NOT NULL,
        purge_at bigint,
        number bigint NOT NULL,
        writer text NOT NULL,
        writers text NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITH (fillfactor = 70);
    COMMENT ON TABLE %TABLE IS '{_MARK}{VERSION}';
END $make$
""".encode()
