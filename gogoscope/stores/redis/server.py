"""One server, or a cluster of which it is a part: its connections, and its clock.

A cluster is found out, not configured. A server that is asked for a key that another one has names
that one. So the first request for each slot may take two steps, and the others take one. If a
server cannot be reached, what was known of it is forgotten, and another one is asked.

Mutable state: what makes connections, which is there while the store is open; the lanes of each
server, by its place; the server that is asked for what no other one is known to have; and which
server has which slot, as far as it was named.
"""

from __future__ import annotations

import binascii
import itertools

import anyio
from attrs import define, frozen

from gogoscope.exceptions import PersistenceError, StoreConnectionError, StoreTimeoutError
from gogoscope.persistence import Life, ServerClock
from gogoscope.stores.redis.address import Address
from gogoscope.stores.redis.connections import Argument, Connect, Connection, Lane, client
from gogoscope.stores.redis.errors import answered_by_server

CLOSE_SECONDS = 5.0
SLOTS = 16_384


@frozen(eq=False)
class _Lanes:
    """The lane of requests that a lease depends on, and that of all others."""

    urgent: Lane
    other: Lane


class Server:
    """One server, or a cluster of which it is a part.

    :param address: where it is
    :param timeout: how long one try of a request may take, in seconds
    :param ca_file: the certificates that it is checked by
    """

    def __init__(self, address: Address, timeout: float, ca_file: str | None) -> None:
        self.address = address
        self.timeout = timeout
        self.life = Life(f"the Redis store {str(address)!r}", asyncio_for="redis-py")
        self.clock = ServerClock()
        self._ca_file = ca_file
        self._connect: Connect | None = None
        self._lanes: dict[str, _Lanes] = {}
        self._home = address.place
        self._places: dict[int, str] = {}
        self._tags = itertools.count()

    def open(self) -> None:
        """Let connections be made as they are needed.

        :raises BackendUnavailableError: if the client is not installed
        """
        self._connect = client(self._ca_file)
        self.clock = ServerClock()

    async def close(self) -> None:
        """Close all connections, or forget those that have ended with their event loop."""
        lanes = [lane for pair in self._lanes.values() for lane in (pair.urgent, pair.other)]
        self._lanes, self._connect = {}, None
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            for lane in lanes:
                if self.life.orphaned:
                    lane.abandon()
                else:
                    await lane.close()

    def place_of(self, key: bytes | None) -> str:
        """Return the server that has a key, as far as that is known."""
        if key is None or not self._places:
            return self._home
        return self._places.get(_slot(key), self._home)

    def lane(self, place: str, *, urgent: bool = False) -> Lane:
        """Return connections to a server.

        :param urgent: whether they are those that are kept free for what is urgent
        :raises PersistenceError: if the store is closed, or belongs to another process or loop
        """
        self.life.check()
        if self._connect is None:
            raise PersistenceError(f"the store {str(self.address)!r} is being opened or closed")
        lanes = self._lanes.get(place)
        if lanes is None:
            address = self.address.at(place)
            lanes = _Lanes(Lane(address, self._connect), Lane(address, self._connect))
            self._lanes[place] = lanes
        return lanes.urgent if urgent else lanes.other

    async def connect(self) -> Connection:
        """Return a new connection to a server that has nothing to do with requests."""
        self.life.check()
        if self._connect is None:
            raise PersistenceError(f"the store {str(self.address)!r} is being opened or closed")
        connection = self._connect(self.address.at(self._home))
        try:
            with anyio.fail_after(self.timeout):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def named(self, slot: int, host: str, port: int) -> None:
        """Note which server has a slot."""
        self._places[slot] = self.address.at(f"{host}:{port}").place

    def unreachable(self, place: str) -> None:
        """Forget what a server has, since it cannot be reached or is none any more."""
        for slot in [slot for slot, other in self._places.items() if other == place]:
            del self._places[slot]
        if place == self._home:
            self._home = next((other for other in self._lanes if other != place), place)

    def next_tag(self) -> bytes:
        """Return a tag that no other request of this store has."""
        return b"%d" % next(self._tags)

    async def look(self, *command: Argument) -> object:
        """Send a command that changes nothing; return its answer, ``None`` if it is refused.

        :raises PersistenceError: if it cannot be sent, or is not answered
        """
        try:
            with anyio.fail_after(self.timeout):
                answer: object = await self.lane(self._home).ask([command], _Look())
        except TimeoutError as error:
            raise StoreTimeoutError(f"{self.address} did not answer") from error
        except PersistenceError:
            raise
        except Exception as error:
            if answered_by_server(error):
                return None
            raise StoreConnectionError(f"{self.address} failed: {error}") from error
        return answer


@define
class _Look:
    sent: bool = False


def _slot(key: bytes) -> int:
    """Return the slot of a cluster that a key is in, by the specification of Redis Cluster."""
    _, opened, behind = key.partition(b"{")
    tag, closed, _ = behind.partition(b"}")
    return binascii.crc_hqx(tag if opened and closed and tag else key, 0) % SLOTS
