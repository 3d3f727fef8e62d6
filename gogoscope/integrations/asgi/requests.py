"""The time that a request has, and what it is answered with."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Protocol

import anyio
from attrs import define

from gogoscope._core.cancellation import checkpoint_if_cancelled
from gogoscope.exceptions import TaskCancelled
from gogoscope.integrations.asgi.protocol import (
    Connection,
    Message,
    Send,
    answer,
    header,
)

ENDS_OF_BODY = ("http.response.body", "http.response.zerocopysend", "http.response.pathsend")
SERVICE_RESTART = 1012
"""A code of the registry of RFC 6455, section 11.7."""


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


class Reply(Protocol):
    """What the application sends to the client, and how far that has come."""

    ended: bool
    """Whether the client has all of it."""
    is_late: bool
    """Whether its time is over: nothing of it is sent any more."""

    async def send(self, message: Message) -> None:
        """Pass on what the application sends."""
        ...

    async def break_off(self, why: str) -> None:
        """End it, since the application was cancelled."""
        ...


@define
class Response:
    """The response of a request, and how far it has come.

    :param limit: bounds the request, until the caller has the whole response
    """

    _send: Send
    _limit: anyio.CancelScope
    started: bool = False
    ended: bool = False
    is_late: bool = False
    _trailers: bool = False

    async def send(self, message: Message) -> None:
        """Pass on a part of the response, or what goes before it.

        Code that was shielded, or ran in a thread, may come here after the deadline.
        """
        if anyio.current_time() >= self._limit.deadline:
            self._limit.cancel()
            self.is_late = self.is_late or not self.started
            await checkpoint_if_cancelled()
        if self.is_late:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
            self._trailers = message.get("trailers", False)
        elif kind == "http.response.trailers":
            self.ended = not message.get("more_trailers", False)
        elif kind in ENDS_OF_BODY and not message.get("more_body", False):
            self.ended = not self._trailers
        await self._send(message)
        if self.ended:
            self._limit.deadline = math.inf

    async def break_off(self, why: str) -> None:
        """Answer with a 503, or raise an error in the middle of the response.

        :raises TaskCancelled: for the server, which then breaks the connection
        """
        if self.started:
            raise TaskCancelled(f"{why}, in the middle of the response")
        await answer(self._send, 503, why)


@define
class Socket:
    """What a WebSocket sends."""

    _send: Send
    ended: bool = False
    is_late: bool = False

    async def send(self, message: Message) -> None:
        """Pass on what the application sends."""
        self.ended = message["type"] == "websocket.close"
        await self._send(message)

    async def break_off(self, why: str) -> None:
        """Close the WebSocket, unless the server has done that."""
        with suppress(Exception):  # each server has an error of its own for one that is closed
            await self.send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": why})
