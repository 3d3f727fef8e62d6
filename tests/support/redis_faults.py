"""Connections to Redis that count, lose and delay, and a switch between two servers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream

from gogoscope.stores.redis.address import Address
from gogoscope.stores.redis.connections import Connect, Connection
from gogoscope.stores.redis.errors import is_called
from gogoscope.stores.redis.scripts import CLEAR, LOAD, PAGE, PUT, RESERVE, SWAP, TIME
from gogoscope.stores.redis.store import RedisStore
from tests.support.dynamodb_faults import Fault, fine

NAMES = {
    name: (script.sha, script.text)
    for name, script in {
        "load": LOAD,
        "swap": SWAP,
        "put": PUT,
        "page": PAGE,
        "clear": CLEAR,
        "time": TIME,
        "reserve": RESERVE,
    }.items()
}

TEXTS = dict(NAMES.values())


def name_of(command: tuple[Any, ...]) -> str:
    """Return the name of the script that a command runs, or else that of the command."""
    return next(
        (name for name, texts in NAMES.items() if command[1:2] and command[1] in texts),
        str(command[0]),
    )


class FaultyRedis:
    """Stands between an open store and its client: keeps what is sent, and lets faults happen.

    The next of ``faults`` happens to the next request; that of ``constant_faults`` to every request
    with its name.
    """

    def __init__(self, store: RedisStore) -> None:
        self.calls: list[str] = []
        self.faults: deque[Fault] = deque()
        self.constant_faults: dict[str, Fault] = {}
        server = store._server
        assert server._connect is not None
        self._connect: Connect = server._connect
        self._connections: list[Connection] = []
        server._connect = self._connected
        for lanes in server._lanes.values():
            for lane in (lanes.urgent, lanes.other):
                lane._connect = self._connected
                idle: list[Any] = [_FaultyConnection(self, own) for own in lane._idle]
                lane._idle = idle
                self._connections += idle

    def _connected(self, address: Address) -> Any:
        connection: Any = _FaultyConnection(self, self._connect(address))
        self._connections.append(connection)
        return connection

    async def disconnect(self) -> None:
        """Close all connections, also those on which requests were sent late."""
        for connection in self._connections:
            await connection.disconnect()

    def _fault_of(self, name: str) -> Fault:
        self.calls.append(name)
        return self.faults.popleft() if self.faults else self.constant_faults.get(name, fine)


class _FaultyConnection:
    def __init__(self, faulty: FaultyRedis, connection: Any) -> None:
        self._faulty = faulty
        self._connection = connection
        self._command: tuple[Any, ...] = ()
        self._listens = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def send_command(self, *command: Any) -> None:
        self._command = command
        if command[0] in ("SUBSCRIBE", "UNSUBSCRIBE"):
            self._listens = True
            await self._connection.send_command(*command)

    async def read_response(self, **options: Any) -> Any:
        if self._listens:
            return await self._connection.read_response(**options)

        async def ask(*command: Any) -> Any:
            await self._connection.send_command(*command)
            return await self._connection.read_response()

        async def perform() -> Any:
            try:
                return await ask(*self._command)
            except Exception as error:
                if not is_called(error, "NoScriptError"):
                    raise
                # A fault happens to what the script does, not to a server's first sight of it.
                await ask("SCRIPT", "LOAD", TEXTS[self._command[1]])
                return await ask(*self._command)

        return await self._faulty._fault_of(name_of(self._command))(perform)


class Switch:
    """A place that clients connect to, before one server or another, as a name in DNS is."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._connections: set[SocketStream] = set()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.url = f"redis://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/0"
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            yield
            group.cancel_scope.cancel()

    async def turn_to(self, port: int) -> None:
        """Let new connections go to another server, and break those that are open."""
        self._target = port
        for connection in list(self._connections):
            await connection.aclose()

    async def _serve(self, near: SocketStream) -> None:
        with suppress(OSError):
            far = await anyio.connect_tcp("127.0.0.1", self._target)
            self._connections |= {near, far}
            async with near, far, anyio.create_task_group() as group:
                for source, sink in ((near, far), (far, near)):
                    group.start_soon(_pass_on, source, sink, group.cancel_scope.cancel)
            self._connections -= {near, far}


async def _pass_on(source: SocketStream, sink: SocketStream, end: Callable[[], None]) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in source:
            await sink.send(data)
    end()
