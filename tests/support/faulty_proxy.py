"""A proxy in front of DynamoDB that loses, delays, repeats and refuses."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

LONGEST_DELAY = 0.7
FAULTS = {
    "answers dropped after the write": 0.03,
    "requests dropped": 0.02,
    "requests delayed": 0.02,
    "answers delayed": 0.02,
    "status 500 without a write": 0.02,
    "status 500 after the write": 0.02,
    "throttled": 0.02,
    "requests that landed late": 0.02,
    "requests that landed twice": 0.02,
}
CARRIED_OUT = b"HTTP/1.1 200"
GONE = (
    *(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError),
    *(anyio.ClosedResourceError, OSError),
)


class FaultyProxy:
    """Passes HTTP requests on; while ``faulty``, faults happen to some. ``done`` counts them.

    :param faults: how often each happens
    """

    def __init__(self, chance: random.Random, faults: Mapping[str, float] = FAULTS) -> None:
        self.chance = chance
        self._faults = faults
        self.faulty = False
        self.done: Counter[str] = Counter()
        self.url = ""

    @asynccontextmanager
    async def running(self, target_url: str) -> AsyncIterator[None]:
        target = urlsplit(target_url)
        self._host, self._port = target.hostname or "", target.port or 0
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        async with listener, anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(listener.serve, self._serve)
            yield
            self._tasks.cancel_scope.cancel()

    async def _serve(self, near: SocketStream) -> None:
        try:
            async with near, await anyio.connect_tcp(self._host, self._port) as far:
                requests, answers = BufferedByteReceiveStream(near), BufferedByteReceiveStream(far)
                while await self._pass_one(requests, far, answers, near):
                    pass
        except GONE:
            return

    async def _pass_one(
        self,
        requests: BufferedByteReceiveStream,
        far: SocketStream,
        answers: BufferedByteReceiveStream,
        near: SocketStream,
    ) -> bool:
        """Pass one request and its answer; tell whether the connection goes on."""
        request = await _message(requests)
        await self.received(request)
        fault = self.fault()
        if fault == "requests that landed late":
            self._tasks.start_soon(self._land, request)
        if fault in ("requests dropped", "requests that landed late"):
            return False
        if fault == "requests delayed":
            await anyio.sleep(self.chance.uniform(0, LONGEST_DELAY))
        if fault in ("status 500 without a write", "throttled"):
            await near.send(_THROTTLED if fault == "throttled" else _BROKEN)
            return True
        await far.send(request)
        answer = await _message(answers)
        if fault == "requests that landed twice" and answer.startswith(CARRIED_OUT):
            # One that was refused could be granted the second time, and no client could know.
            self._tasks.start_soon(self._land, request)
        if fault == "answers dropped after the write":
            return False
        if fault == "answers delayed":
            await anyio.sleep(self.chance.uniform(0, LONGEST_DELAY))
        await near.send(_BROKEN if fault == "status 500 after the write" else answer)
        return True

    async def _land(self, request: bytes) -> None:
        """Deliver a request after a while, when nobody waits for its answer any more."""
        await anyio.sleep(self.chance.uniform(0, LONGEST_DELAY))
        with suppress(*GONE):
            async with await anyio.connect_tcp(self._host, self._port) as far:
                await far.send(request)
                answer = await _message(BufferedByteReceiveStream(far))
                landed = answer.startswith(CARRIED_OUT)
                self.done["of these, accepted" if landed else "of these, refused"] += 1

    async def received(self, request: bytes) -> None:
        """Do something before a request is passed on; for subclasses."""

    def fault(self) -> str | None:
        if not self.faulty:
            return None
        (fault,) = self.chance.choices(
            [*self._faults, None], [*self._faults.values(), 1 - sum(self._faults.values())]
        )
        if fault is not None:
            self.done[fault] += 1
        return fault


async def _message(stream: BufferedByteReceiveStream) -> bytes:
    head = await stream.receive_until(b"\r\n\r\n", 65_536)
    size = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    body = await stream.receive_exactly(size) if size else b""
    return head + b"\r\n\r\n" + body


def _error(status: str, code: str) -> bytes:
    body = f'{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"injected"}}'.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.0\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_BROKEN = _error("500 Internal Server Error", "InternalServerError")
_THROTTLED = _error("400 Bad Request", "ThrottlingException")
