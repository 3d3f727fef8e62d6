"""The channels on which a server tells of changes: one for each key, with the name of the key.

Each node of a cluster tells of the keys of all. What was told while the connection was broken is
lost, as is what a server tells in the moment in which a replica takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable

from gogoscope.stores.redis.connections import Connection


class ChannelEar:
    """A connection that listens to channels.

    :param connection: an open one, which nobody else uses
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, names: Iterable[str]) -> None:
        """Listen to the channels of these keys."""
        await self._connection.send_command("SUBSCRIBE", *names)

    async def drop(self, names: Iterable[str]) -> None:
        """Listen to them no longer."""
        await self._connection.send_command("UNSUBSCRIBE", *names)

    async def hear(self) -> Iterable[str]:
        """Wait for the next message; what only says that a channel was added tells of nothing.

        What was read of one when this is cancelled is read on by the next call.
        """
        what, name, *_ = await self._connection.read_response(disconnect_on_error=False)
        return [name.decode()] if what == b"message" else []

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)
