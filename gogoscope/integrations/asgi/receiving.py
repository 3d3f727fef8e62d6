"""What an application receives, and how it is told that nobody waits for its answer any more.

Most applications are told by a cancellation. Django answers in a task of its own, which no cancel
scope of ours reaches; but while it does so, another task of its own receives, and Django cancels
the answer when that one is told of a disconnection. So whoever receives in a task that the limit of
the request does not bound is told in this way, and has a moment to end before it is cancelled.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import anyio
from attrs import define, field

from gogoscope.integrations.asgi.protocol import Message, Receive
from gogoscope.integrations.asgi.requests import Reply

GONE = "the client has disconnected"
DISCONNECTS = ("http.disconnect", "websocket.disconnect")
MOMENT = 1.0
"""How many seconds an application has to end that is told by what it receives."""


@define
class Receiving:
    """Receives for an application.

    ``_deadline`` is that of the request, ``_apart`` counts the receivers that the limit does not
    bound. While there are some, the limit itself is a moment later.

    :param receive: the server's, or what stands in between
    :param reply: becomes late if a receiver is told of the deadline
    :param limit: bounds the request
    """

    receive_next: Receive
    _reply: Reply
    _limit: anyio.CancelScope
    _deadline: float = field(init=False)
    _task: int = field(init=False)
    _apart: int = 0

    def __attrs_post_init__(self) -> None:
        self._deadline = self._limit.deadline
        self._task = anyio.get_current_task().id

    @property
    def is_apart(self) -> bool:
        """Whether somebody receives who is not cancelled with the request."""
        return self._apart > 0

    async def receive(self) -> Message:
        """Return what comes next, or a disconnection when the time is over."""
        if anyio.get_current_task().id == self._task or self._bounds_caller():
            return await self.receive_next()
        self._apart += 1
        self._set_limit()
        try:
            if not self._reply.is_late:
                with anyio.move_on_after(self._deadline - anyio.current_time()):
                    return await self.receive_next()
                self._reply.is_late = not self._reply.ended
        finally:
            self._apart -= 1
            if not self._reply.is_late:
                self._set_limit()
        return {"type": "http.disconnect"}

    def _bounds_caller(self) -> bool:
        return anyio.current_effective_deadline() <= self._limit.deadline != math.inf

    def _set_limit(self) -> None:
        if not self._reply.ended:
            self._limit.deadline = self._deadline + (MOMENT if self._apart else 0.0)


@define
class Listening:
    """Receives ahead of the application, so that a client that disconnects is noticed.

    One message is received ahead, so that a body or a WebSocket never fills the memory.

    :param receiving: where the server's messages come from; it receives from here then
    :param gone: is called if the client disconnects before it has the whole response

    ``_messages`` are those that the application has not taken, or the error that was raised in
    place of one. ``_came`` tells it of the next one; ``_taken`` tells the listener that there is
    room, ``_told`` that it knows of the disconnection.
    """

    _receiving: Receiving
    _reply: Reply
    _gone: Callable[[], object]
    _receive: Receive = field(init=False)
    _messages: deque[Message | Exception] = field(factory=deque)
    _came: anyio.Event = field(factory=anyio.Event)
    _taken: anyio.Event = field(factory=anyio.Event)
    _told: anyio.Event = field(factory=anyio.Event)

    def __attrs_post_init__(self) -> None:
        self._receive = self._receiving.receive_next
        self._receiving.receive_next = self.receive

    async def listen(self) -> None:
        """Receive until the client disconnects."""
        while True:
            try:
                message = await self._receive()
            except Exception as error:  # noqa: BLE001 - the application is to have it
                await self._hand_over(error)
                continue
            if message["type"] in DISCONNECTS:
                self._arrived(message)
                break
            if message["type"] != "http.request" or message.get("more_body", False):
                await self._hand_over(message)
            else:
                self._arrived(message)
        if message["type"] == "websocket.disconnect":
            with anyio.move_on_after(MOMENT):
                await self._told.wait()
                return  # that is how a conversation ends
        elif self._receiving.is_apart:
            await anyio.sleep(MOMENT)
        if not self._reply.ended:
            self._gone()

    async def receive(self) -> Message:
        """Return the next message; the last one, a disconnection, again and again."""
        while not self._messages:
            if self._came.is_set():
                self._came = anyio.Event()
            await self._came.wait()
        message = self._messages[0]
        if not isinstance(message, Exception) and message["type"] in DISCONNECTS:
            self._told.set()
            return message
        self._messages.popleft()
        self._taken.set()
        if isinstance(message, Exception):
            try:
                raise message
            finally:
                del message
        return message

    def _arrived(self, message: Message | Exception) -> None:
        self._messages.append(message)
        self._came.set()

    async def _hand_over(self, message: Message | Exception) -> None:
        self._taken = anyio.Event()
        self._arrived(message)
        await self._taken.wait()
