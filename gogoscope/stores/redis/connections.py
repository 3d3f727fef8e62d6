"""Connections to one server, each for one request at a time.

This is the only module that imports the client. Of it the connection alone is used: whoever sends a
request must know whether connecting failed, so that nothing was sent, or the answer did not come,
and the client's pool does not tell. Invariants:

- A connection whose request was not answered, for whatever reason, is closed: the next request on
  it would get that answer. One that has something to read before a request is closed, too.
- A request on one lane never waits for one on another.

Mutable state of a :class:`Lane`: the connections that nobody uses, of which the last one used is
taken first, and whether the store was closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Protocol

from gogoscope.exceptions import BackendUnavailableError
from gogoscope.persistence import Room
from gogoscope.stores.redis.address import Address
from gogoscope.stores.redis.errors import answered_by_server, check_tag

CONNECTIONS_PER_LANE = 32

Argument = bytes | str | int


class Connection(Protocol):
    """What is used of a connection of the client."""

    @property
    def is_connected(self) -> bool:
        """Whether it is connected."""
        ...

    async def connect(self) -> None:
        """Connect, and log in."""
        ...

    async def send_command(self, *arguments: Any) -> None:
        """Send a command."""
        ...

    async def read_response(self, *, disconnect_on_error: bool = True) -> Any:
        """Read an answer.

        :param disconnect_on_error: whether to close it if that fails, or is cancelled
        """
        ...

    async def disconnect(self, nowait: bool = False) -> None:
        """Close it."""
        ...


Connect = Callable[[Address], Connection]


def client(ca_file: str | None) -> Connect:
    """Return what makes connections; importing the client takes some time.

    :param ca_file: the certificates that a server of the scheme ``rediss`` is checked by; those of
        the system if left out
    :raises BackendUnavailableError: if the client is not installed
    """
    try:
        # Imported here, since the client is optional and slow to import.
        from redis.asyncio.connection import (  # noqa: PLC0415
            AbstractConnection,
            SSLConnection,
        )
        from redis.asyncio.connection import Connection as Plain  # noqa: PLC0415
    except ImportError as error:
        raise BackendUnavailableError(
            "Redis needs redis-py; install it with: pip install 'gogoscope[redis]'"
        ) from error

    # It tells the server its name when it connects, and not every server understands that.
    if "driver_info" in signature(AbstractConnection.__init__).parameters:
        nameless: dict[str, Any] = {"driver_info": None}
    else:  # before version 7
        nameless = {"lib_name": None, "lib_version": None}

    def make(address: Address) -> Any:
        # The time limit is that of the whole request, so the client's own limits are off.
        settings = {
            **address.settings(),
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "protocol": 2,
            **nameless,
        }
        if address.tls:
            return SSLConnection(**settings, ssl_ca_certs=ca_file, ssl_check_hostname=True)
        return Plain(**settings)

    return make


class Progress(Protocol):
    """How far a request has come: ``sent`` says whether a part of it may have been sent."""

    sent: bool


class Lane:
    """Some connections to one server, and the room for requests on them."""

    def __init__(self, address: Address, connect: Connect) -> None:
        self._address = address
        self._connect = connect
        self._idle: list[Connection] = []
        self._closed = False
        self.room = Room(CONNECTIONS_PER_LANE)

    async def ask(
        self, commands: Sequence[Sequence[Argument]], progress: Progress, tag: bytes | None = None
    ) -> Any:
        """Send commands one after the other, and return the answer to the last one.

        :param progress: where it is noted how far the last one has come
        :param tag: what its answer begins with
        :raises ForeignAnswerError: if it begins with anything else
        :raises Exception: any that the client raises
        """
        connection = await self._ready()
        answer: Any = None
        answered = False
        try:
            for command in commands:
                progress.sent = command is commands[-1]
                await connection.send_command(*command)
                answer = await connection.read_response()
            if tag is not None:
                check_tag(answer, tag)
            answered = True
        except Exception as error:
            answered = answered_by_server(error)
            raise
        finally:
            if answered and not self._closed:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        return answer

    async def _ready(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected and not await _has_data(connection):
                return connection
            await connection.disconnect(nowait=True)
        connection = self._connect(self._address)
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def drop_idle(self) -> None:
        """Close the connections that nobody uses: the server is no longer what it was."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def close(self) -> None:
        """Close all connections; those in use are closed after their requests."""
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect()

    def abandon(self) -> None:
        """Forget all connections, which have ended with their event loop."""
        self._closed = True
        self._idle.clear()


async def _has_data(connection: Any) -> bool:
    """Return whether there is something to read, be it the end, before anything was asked."""
    look = getattr(connection, "can_read", None) or connection.can_read_destructive
    try:
        return bool(await look())
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is of no use
        return True
