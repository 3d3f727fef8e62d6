"""A proxy that knows no protocol, for stores whose server is spoken to over TCP.

What a client sends at once counts as a request, and what comes back next as its answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
from anyio.abc import SocketStream

from tests.support.faulty_proxy import GONE, LONGEST_DELAY, FaultyProxy

TUNNEL_FAULTS = {
    "answers dropped after the write": 0.03,
    "requests dropped": 0.02,
    "requests delayed": 0.02,
    "answers delayed": 0.02,
    "requests that landed late": 0.03,
}
A_MOMENT = 0.1


class Tunnel(FaultyProxy):
    """Passes bytes on; while ``silent`` is set, swallows them, and keeps the connections open."""

    silent = False

    async def _serve(self, near: SocketStream) -> None:
        with suppress(*GONE):
            async with (
                near,
                await anyio.connect_tcp(self._host, self._port) as far,
                anyio.create_task_group() as pumps,
            ):
                connection = _Connection(self, near, far)
                pumps.start_soon(connection.send_requests)
                await connection.send_answers()


class _Connection:
    """One connection of a client; ``_loses`` and ``_delay`` say what becomes of the next answer."""

    def __init__(self, tunnel: Tunnel, near: SocketStream, far: SocketStream) -> None:
        self._tunnel = tunnel
        self._near = near
        self._far = far
        self._loses = False
        self._delay = 0.0

    async def send_requests(self) -> None:
        with suppress(*GONE):
            while True:
                request = await self._near.receive()
                if self._tunnel.silent:
                    continue
                fault = self._tunnel.fault()
                if fault == "requests dropped":
                    break
                if fault == "requests delayed":
                    await anyio.sleep(self._some_time())
                if fault == "requests that landed late":
                    await self._near.aclose()
                    await anyio.sleep(self._some_time())
                    await self._far.send(request)
                    await anyio.sleep(A_MOMENT)  # for the server to carry it out
                    break
                self._loses = fault == "answers dropped after the write"
                self._delay = self._some_time() if fault == "answers delayed" else 0.0
                await self._far.send(request)
        await self._far.aclose()

    async def send_answers(self) -> None:
        with suppress(*GONE):
            while True:
                answer = await self._far.receive()
                if self._tunnel.silent:
                    continue
                if self._loses:
                    break
                await anyio.sleep(self._delay)
                await self._near.send(answer)
        await self._near.aclose()

    def _some_time(self) -> float:
        return self._tunnel.chance.uniform(0, LONGEST_DELAY)


def server_of(url: str) -> str | None:
    """Return the URL of the server of a store, or ``None`` if it has none."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return None
    return dict(parse_qsl(parts.query)).get("endpoint_url", f"tcp://{parts.netloc}")


@asynccontextmanager
async def through(url: str, proxy: FaultyProxy) -> AsyncIterator[str]:
    """Return the URL of a store with a proxy before its server."""
    server = server_of(url)
    if server is None:
        yield url
        return
    async with proxy.running(server):
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        if "endpoint_url" in options:
            query = urlencode(options | {"endpoint_url": proxy.url})
            yield urlunsplit(parts._replace(query=query))
        else:
            user, at, _ = parts.netloc.rpartition("@")
            near = urlsplit(proxy.url).netloc
            yield urlunsplit(parts._replace(netloc=f"{user}{at}{near}"))
