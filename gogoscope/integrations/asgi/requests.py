"""What a request is held to: its deadline, and a client that is still there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import anyio
from attrs import define, field

from gogoscope.integrations.asgi.protocol import Connection, Message, Receive, Send, header

GONE = "the client has disconnected"


def seconds_left(connection: Connection, name: bytes) -> float:
    """Return how many seconds the caller of a request still waits; infinity if it does not say.

    :param name: the header that says so, in lower case
    :raises ValueError: if the header is no number of seconds
    """
    text = header(connection, name)
    if text is None:
        return math.inf
    try:
        left = float(text)
    except ValueError:
        left = math.nan
    if math.isnan(left):
        raise ValueError(f"the header {name.decode()} must be a number of seconds, got {text!r}")
    return left


@define
class Response:
    """The response of a request, and how far it has come.

    :param limit: bounds the request, until the caller has the whole response
    """

    _send: Send
    _limit: anyio.CancelScope
    started: bool = False
    ended: bool = False

    async def send(self, message: Message) -> None:
        """Pass on a part of the response."""
        self.started = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended = True
        await self._send(message)
        if self.ended:
            self._limit.deadline = math.inf


@define
class Listening:
    """Receives ahead of the application, so that a client that disconnects is noticed.

    Of the body of the request, one message is received ahead, so that it never fills the memory.

    :param receive: the server's
    :param gone: is called if the client disconnects before it has the whole response

    ``_messages`` are those that the application has not taken. ``_came`` tells it of the next one;
    ``_taken`` tells the listener that there is room.
    """

    _receive: Receive
    _response: Response
    _gone: Callable[[], object]
    _messages: deque[Message] = field(factory=deque)
    _came: anyio.Event = field(factory=anyio.Event)
    _taken: anyio.Event = field(factory=anyio.Event)

    async def listen(self) -> None:
        """Receive until the client disconnects."""
        while True:
            message = await self._receive()
            self._messages.append(message)
            self._came.set()
            if message["type"] == "http.disconnect":
                break
            if message.get("more_body", False):
                await self._taken.wait()
                self._taken = anyio.Event()
        if not self._response.ended:
            self._gone()

    async def receive(self) -> Message:
        """Return the next message; the last one, a disconnection, again and again."""
        while not self._messages:
            self._came = anyio.Event()
            await self._came.wait()
        message = self._messages[0]
        if message["type"] != "http.disconnect":
            self._messages.popleft()
            self._taken.set()
        return message
