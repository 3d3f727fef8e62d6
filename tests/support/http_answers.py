"""A server whose HTTP answers are given, and which keeps the requests that it got."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import Factory, frozen

LONGEST_HEAD = 65_536


@frozen
class Got:
    """A request as it came over the wire; the names of its headers are in small letters."""

    line: str
    headers: dict[str, str]
    body: bytes


@frozen
class Reply:
    """An answer; with its length, and DynamoDB's headers unless they are given as ``None``."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str | None] = Factory(dict)

    @classmethod
    def of(cls, content: Any, status: int = 200, **headers: str | None) -> Reply:
        """Return an answer with JSON; ``_`` in the names of headers is written ``-``."""
        body = json.dumps(content, separators=(",", ":")).encode()
        return cls(body, status, {name.replace("_", "-"): value for name, value in headers.items()})

    def encode(self) -> bytes:
        """Return it as it is sent."""
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "x-amz-crc32": str(zlib.crc32(self.body)),
            "x-amzn-requestid": "REQUEST",
            "content-length": str(len(self.body)),
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} whatever"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


class AnsweringServer:
    """Answers each request with the next of ``replies``, or with ``usual`` if none is left.

    The connection is closed after an answer whose length is not that of its body.
    """

    def __init__(self, usual: Reply | None = None) -> None:
        self.usual = usual or Reply()
        self.replies: deque[Reply] = deque()
        self.got: list[Got] = []
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen on a free port while the block runs."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{port}"
        async with listener, anyio.create_task_group() as connections:
            connections.start_soon(listener.serve, self._serve)
            yield
            connections.cancel_scope.cancel()

    async def _serve(self, stream: SocketStream) -> None:
        received = BufferedByteReceiveStream(stream)
        async with stream:
            while True:
                try:
                    head = await received.receive_until(b"\r\n\r\n", LONGEST_HEAD)
                except (anyio.IncompleteRead, anyio.BrokenResourceError):
                    return
                line, *rest = head.decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (r.partition(": ") for r in rest)
                }
                body = await received.receive_exactly(int(headers.get("content-length", 0)))
                self.got.append(Got(line, headers, body))
                reply = self.replies.popleft() if self.replies else self.usual
                await stream.send(reply.encode())
                if reply.headers.get("content-length"):
                    return
