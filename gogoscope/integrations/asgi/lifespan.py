"""The lifespan of an application that may not know of lifespans.

A server sends ``lifespan.startup``, waits for the answer, serves requests, sends
``lifespan.shutdown``, and waits for that answer. Around the application's own lifespan there is a
block here: it is entered before the application starts, and left after it has shut down, and the
server is answered after that. The startup has a bound, too: if the service is to end, and the
application has not answered when its grace is over, the startup has failed. An application that
raises or returns before it has answered anything knows no lifespans; then the server is answered
here alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from attrs import define

from gogoscope.events.log import text_of
from gogoscope.integrations.asgi.protocol import Application, Connection, Message, Receive, Send
from gogoscope.integrations.asgi.service import Service

logger = logging.getLogger("gogoscope.asgi")


@define
class _Server:
    """The server, as the application inside sees it.

    ``first`` is the first message until the application takes it. ``answer`` is the last that the
    application answered; one to the shutdown is kept, and sent after the block was left.
    ``is_stopping`` tells that the shutdown has begun, which the service is told.
    """

    first: Message | None
    receive_next: Receive
    send_on: Send
    service: Service | None = None
    answer: Message | None = None
    is_stopping: bool = False

    async def receive(self) -> Message:
        """Return what the server sends; the first message was received already."""
        first, self.first = self.first, None
        if first is not None:
            return first
        message = await self.receive_next()
        self.is_stopping = True
        if self.service is not None:
            self.service.begin_end()
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application answers to the startup.

        :raises RuntimeError: if it takes the lifespan for something else
        """
        if not message["type"].startswith("lifespan."):
            raise RuntimeError(f"this is a lifespan; got the message {message['type']!r} in it")
        self.answer = message
        if self.service is not None:
            self.service.has_started = True
        if message["type"].startswith("lifespan.startup."):
            await self.send_on(message)

    def has_answered(self, what: str) -> bool:
        """Return whether the last answer of the application is of some type."""
        return self.answer is not None and self.answer["type"] == f"lifespan.{what}"


LiveIn = Callable[[Service], Awaitable[None]]
"""Runs the lifespan of an application in a service, which it tells how far that has come."""


async def live(
    app: Application,
    connection: Connection,
    receive: Receive,
    send: Send,
    around: Callable[[LiveIn], Awaitable[None]],
) -> None:
    """Run an application's lifespan inside a block.

    :param around: runs the lifespan in the block
    :raises TimeoutError: if the service had to end before the startup was answered
    """
    server = _Server(await receive(), receive, send)

    async def live_in(service: Service) -> None:
        server.service = service
        with service.starting:
            await _run(app, connection, server)
        service.check_started()
        if not (server.has_answered("startup.failed") or server.is_stopping):
            await server.receive()

    try:
        await around(live_in)
    except Exception as error:
        text = f"{type(error).__name__}: {text_of(error)}"
        if server.answer is None:
            await send({"type": "lifespan.startup.failed", "message": text})
        elif not server.has_answered("startup.failed"):
            await send({"type": "lifespan.shutdown.failed", "message": text})
        raise
    if server.has_answered("startup.failed"):
        return
    answer = server.answer
    if answer is None or not answer["type"].startswith("lifespan.shutdown."):
        answer = {"type": "lifespan.shutdown.complete"}
    await send(answer)


async def _run(app: Application, connection: Connection, server: _Server) -> None:
    """Run the lifespan of an application, or answer the startup if it has none."""
    try:
        await app(connection, server.receive, server.send)
    except Exception:
        if server.answer is not None:
            raise
        logger.debug("the application knows no lifespans", exc_info=True)
    if server.answer is None:
        server.first = None
        await server.send({"type": "lifespan.startup.complete"})
