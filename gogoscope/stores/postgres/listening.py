"""A connection on which the server tells of changes (``LISTEN``), and who waits for which.

Whoever waits for a key shares an advisory lock of it, on this connection. So whoever changes the
key can find out for nothing whether anybody waits, and tells only then. The server ends both with
the connection.

Behind a pooler it does not work: what was said of one connection of the server would be left on it
for others. A pooler gives itself away: the process that answers is not the one that the client has
logged in to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from gogoscope.stores.postgres.connection import Connection
from gogoscope.stores.postgres.schema import NOW
from gogoscope.stores.postgres.statements import CHANNEL

_WHO = f"SELECT {NOW}, pg_backend_pid()::text".encode()
_LISTEN = b'LISTEN "%s"' % CHANNEL
_EACH = "FROM unnest($1::bigint[]) AS k"
_LOCK = f"SELECT {NOW}, pg_advisory_lock_shared(k)::text {_EACH}".encode()
_UNLOCK = f"SELECT {NOW}, pg_advisory_unlock_shared(k)::text {_EACH}".encode()


async def open_ear(conninfo: str) -> TableEar | None:
    """Connect, and listen; return ``None`` behind a pooler.

    :raises Exception: any that the client raises
    """
    connection = await Connection.open(conninfo)
    try:
        ((_, process),) = await connection.ask(_WHO, [])
        if int(process or 0) != connection.process:
            connection.close()
            return None
        await connection.ask(_LISTEN, [])
    except BaseException:
        connection.close()
        raise
    return TableEar(connection)


class TableEar:
    """A connection that listens.

    :param connection: an open one, which nobody else uses
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, names: Iterable[str]) -> None:
        """Have others see that these keys are waited for."""
        await self._connection.ask(_LOCK, [_array(names)])

    async def drop(self, names: Iterable[str]) -> None:
        """Have them see that they are not any more."""
        await self._connection.ask(_UNLOCK, [_array(names)])

    async def hear(self) -> Iterable[str]:
        """Wait for the next messages."""
        return [told.decode() for told in await self._connection.told()]

    async def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def advisory_lock(name: str) -> int:
    """Return the number of the advisory lock of a name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=CHANNEL).digest()
    return int.from_bytes(digest, "big", signed=True)


def _array(names: Iterable[str]) -> bytes:
    return b"{%s}" % b",".join(b"%d" % advisory_lock(name) for name in names)
