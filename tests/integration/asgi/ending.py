"""A service whose requests wait for something, in plain ASGI; it prints what happens to them."""

from __future__ import annotations

import os
from typing import Any

import anyio

from gogoscope import current_scope
from gogoscope.integrations.asgi import ScopeMiddleware


def say(text: str) -> None:
    """Print a line at once, so that those of two workers do not mix."""
    os.write(1, f"{text}.\n".encode())


async def serve(connection: Any, receive: Any, send: Any) -> None:
    if connection["type"] == "lifespan":
        await live(receive, send)
    elif connection["type"] == "websocket":
        await push(receive, send)
    else:
        await {"/stream": stream, "/wait": wait, "/": hold, "/keep": keep}[connection["path"]](send)


async def live(receive: Any, send: Any) -> None:
    await receive()
    say("started")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("shut down")
    await send({"type": "lifespan.shutdown.complete"})


async def begin(send: Any) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def respond(send: Any, text: str) -> None:
    await begin(send)
    await send({"type": "http.response.body", "body": text.encode()})


async def stream(send: Any) -> None:
    """Send lines until the service stops."""
    s = current_scope()
    assert s is not None
    await begin(send)
    await send({"type": "http.response.body", "body": b"line\n", "more_body": True})
    say("streaming")
    await s.stopping.wait()
    await send({"type": "http.response.body", "body": b"the end\n"})
    say("streamed")


async def push(receive: Any, send: Any) -> None:
    """Keep a WebSocket open without listening to it."""
    await receive()
    await send({"type": "websocket.accept"})
    say("pushing")
    try:
        await anyio.sleep_forever()
    finally:
        say("pushed")


async def wait(send: Any) -> None:
    """Answer too late."""
    say("waiting")
    try:
        await anyio.sleep(600)
    finally:
        say("waited")


async def hold(send: Any, seconds: float = 0) -> None:
    """Hold a lock, and answer who holds it."""
    s = current_scope()
    assert s is not None
    async with s.lock("order", ttl=2, wait=60):
        if seconds:
            say(f"{os.getpid()} holds")
        await anyio.sleep(seconds)
    await respond(send, str(os.getpid()))


async def keep(send: Any) -> None:
    """Hold a lock for longer than anybody waits."""
    await hold(send, 600)


app = ScopeMiddleware(serve, os.environ.get("SERVICE_STORE"), grace=2)
