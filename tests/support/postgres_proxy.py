"""A proxy in front of PostgreSQL that loses, delays and doubles; it knows requests from answers."""

from __future__ import annotations

import random
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

LONGEST_DELAY = 0.7
FAULTS: Mapping[str, float] = {
    "answers dropped after the write": 0.03,
    "requests dropped": 0.02,
    "requests delayed": 0.02,
    "answers delayed": 0.02,
    "answers doubled": 0.02,
}
ASKS_FOR_A_MESSAGE = (3, 5, 10, 11)
"""The authentication requests that the client answers."""


class PostgresProxy:
    """Passes requests on, and lets faults happen to them. ``done`` counts those.

    The next of ``faults`` happens to the next request, ``None`` for none. While there are none left
    and it is ``faulty``, the faults of ``shares`` happen by chance.

    :param chance: the chance
    """

    def __init__(self, chance: random.Random, shares: Mapping[str, float] = FAULTS) -> None:
        self._chance = chance
        self._shares = shares
        self.faulty = False
        self.faults: deque[str | None] = deque()
        self.done: Counter[str] = Counter()
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    def url(self, url: str) -> str:
        """Return the URL of the proxy for that of the server."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        netloc = f"{login}{at}127.0.0.1:{self.port}"
        options = "&".join(filter(None, [parts.query, "sslmode=disable&gssencmode=disable"]))
        return parts._replace(netloc=netloc, query=options).geturl()

    @asynccontextmanager
    async def running(self, server_url: str) -> AsyncIterator[None]:
        server = urlsplit(server_url)
        self._host, self._server_port = server.hostname or "", server.port or 5432
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as connections:
            connections.start_soon(listener.serve, self._serve)
            yield
            connections.cancel_scope.cancel()

    async def _serve(self, near: SocketStream) -> None:
        self.connections += 1
        try:
            async with near, await anyio.connect_tcp(self._host, self._server_port) as far:
                requests, answers = BufferedByteReceiveStream(near), BufferedByteReceiveStream(far)
                await self._begin(requests, far, answers, near)
                while await self._pass_one(requests, far, answers, near):
                    pass
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, OSError):
            return

    async def _pass_one(
        self,
        requests: BufferedByteReceiveStream,
        far: SocketStream,
        answers: BufferedByteReceiveStream,
        near: SocketStream,
    ) -> bool:
        """Pass one request and its answer; return whether the connection goes on."""
        request = await self._request(requests)
        if request.startswith(b"X"):
            return False
        self.requests.append(request)
        fault = self._fault()
        if fault == "requests dropped":
            return False
        if fault == "requests delayed":
            await anyio.sleep(self._chance.uniform(0, LONGEST_DELAY))
        await far.send(request)
        answer = await self._answer(answers)
        if fault == "answers dropped after the write":
            return False
        if fault == "answers swallowed":
            await anyio.sleep_forever()
        if fault == "answers delayed":
            await anyio.sleep(self._chance.uniform(0, LONGEST_DELAY))
        await near.send(answer * (2 if fault == "answers doubled" else 1))
        return True

    async def _begin(
        self,
        requests: BufferedByteReceiveStream,
        far: SocketStream,
        answers: BufferedByteReceiveStream,
        near: SocketStream,
    ) -> None:
        await _log_in(requests, far, answers, near)

    async def _request(self, stream: BufferedByteReceiveStream) -> bytes:
        return await _messages(stream, b"SQX")

    async def _answer(self, stream: BufferedByteReceiveStream) -> bytes:
        return await _messages(stream, b"Z")

    def _fault(self) -> str | None:
        if self.faults:
            fault = self.faults.popleft()
        elif self.faulty:
            (fault,) = self._chance.choices(
                [*self._shares, None], [*self._shares.values(), 1 - sum(self._shares.values())]
            )
        else:
            fault = None
        if fault is not None:
            self.done[fault] += 1
        return fault


async def _log_in(
    requests: BufferedByteReceiveStream,
    far: SocketStream,
    answers: BufferedByteReceiveStream,
    near: SocketStream,
) -> None:
    head = await requests.receive_exactly(4)
    await far.send(head + await requests.receive_exactly(struct.unpack("!i", head)[0] - 4))
    while True:
        message = await _message(answers)
        await near.send(message)
        if message.startswith(b"Z"):
            return
        if message.startswith(b"R") and struct.unpack("!i", message[5:9])[0] in ASKS_FOR_A_MESSAGE:
            await far.send(await _message(requests))


async def _messages(stream: BufferedByteReceiveStream, last: bytes) -> bytes:
    """Read messages up to one of these types."""
    found = bytearray()
    while True:
        message = await _message(stream)
        found += message
        if message[:1] in last:
            return bytes(found)


async def _message(stream: BufferedByteReceiveStream) -> bytes:
    head = await stream.receive_exactly(5)
    return head + await stream.receive_exactly(struct.unpack("!i", head[1:])[0] - 4)
