"""A proxy in front of Redis that loses, delays and doubles; it knows requests from answers."""

from __future__ import annotations

from urllib.parse import urlsplit

from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.support.postgres_proxy import PostgresProxy

LONGEST_LINE = 65_536


class RedisProxy(PostgresProxy):
    """Does to the requests and answers of Redis what its base does to those of PostgreSQL."""

    def url(self, url: str) -> str:
        """Return the URL of the proxy for that of the server."""
        return urlsplit(url)._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    async def _begin(
        self,
        requests: BufferedByteReceiveStream,
        far: SocketStream,
        answers: BufferedByteReceiveStream,
        near: SocketStream,
    ) -> None:
        return  # logging in is a request like any other

    async def _request(self, stream: BufferedByteReceiveStream) -> bytes:
        return await _message(stream)

    async def _answer(self, stream: BufferedByteReceiveStream) -> bytes:
        return await _message(stream)


async def _message(stream: BufferedByteReceiveStream) -> bytes:
    line = await stream.receive_until(b"\r\n", LONGEST_LINE) + b"\r\n"
    if line[:1] == b"*":
        return b"".join([line, *[await _message(stream) for _ in range(int(line[1:]))]])
    if line[:1] == b"$" and int(line[1:]) >= 0:
        return line + await stream.receive_exactly(int(line[1:]) + 2)
    return line
