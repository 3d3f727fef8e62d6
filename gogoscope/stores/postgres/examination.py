"""What a PostgreSQL server tells of itself, and of what this user may do with the table."""
# ruff: noqa: S608 - the name of the table was checked and quoted

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gogoscope.persistence import Finding, clock_finding, told_size
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.stores.postgres.schema import NOW, VERSION

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")

_ASKED = {
    "version": "current_setting('server_version')",
    "replica": "pg_is_in_recovery()::text",
    "commit": "current_setting('synchronous_commit')",
    "fsync": "current_setting('fsync')",
    "size": "pg_table_size(c.oid)::text",
    **{name: f"has_table_privilege(c.oid, '{name}')::text" for name in PRIVILEGES},
}
_EXAMINE = (
    f"SELECT {NOW}, {', '.join(_ASKED.values())} FROM pg_class AS c WHERE c.oid = to_regclass($1)"
).encode()
_ROWS = f"SELECT {NOW}, reltuples::bigint::text FROM pg_class WHERE oid = to_regclass($1)".encode()


async def examine(client: PostgresClient, table: str) -> list[Finding]:
    """Look at a server, and at a table by its quoted name."""
    reply = await client.run(_EXAMINE, table)
    if not reply.rows:
        return [Finding("table", "wrong", f"there is no table {table}", "open it with create=true")]
    (row,) = reply.rows
    told = {name: (value or b"").decode() for name, value in zip(_ASKED, row, strict=True)}
    return [*_findings(told, table), clock_finding(client.clock)]


async def describe_scan(client: PostgresClient, table: str, prefix: str) -> str:
    """Return what a scan reads."""
    reply = await client.run(_ROWS, table)
    rows = int(reply.rows[0][0] or -1) if reply.rows else -1
    size = f", which has about {rows:,} rows" if rows >= 0 else ""
    below = f" below {prefix!r}" if prefix else ""
    return f"the rows of that kind{below} from table {table}, by its index{size}"


def _findings(told: Mapping[str, str], table: str) -> Iterator[Finding]:
    yield Finding("server", "fine", f"PostgreSQL {told['version']}")
    size = told_size(int(told["size"]))
    yield Finding("table", "fine", f"{table}, version {VERSION}, {size}")
    if told["replica"] == "true":
        advice = "name the primary in the URL, or add target_session_attrs=read-write"
        yield Finding("role", "wrong", "a standby, which takes no writes", advice)
    else:
        yield Finding("role", "fine", "a primary")
    missing = [name for name in PRIVILEGES if told[name] != "true"]
    if missing:
        listing = ", ".join(missing)
        advice = f"GRANT {listing} ON {table} TO this user"
        yield Finding("privileges", "wrong", f"no {listing}", advice)
    else:
        yield Finding("privileges", "fine", ", ".join(PRIVILEGES))
    if told["commit"] != "off" and told["fsync"] == "on":
        yield Finding("durability", "fine", f"synchronous_commit {told['commit']}, fsync on")
    else:
        yield Finding(
            "durability",
            "doubtful",
            f"synchronous_commit {told['commit']}, fsync {told['fsync']}: a crash may lose changes",
            "set synchronous_commit and fsync to on, unless locks and runs may be forgotten",
        )
