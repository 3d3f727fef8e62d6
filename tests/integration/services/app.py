"""A web service with periodic work, a leader, and a scope that lives as long as the server.

The tests run it under uvicorn. What happens is printed, one line each, with the process.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gogoscope import Scope, open_persistence, scope

GRACE = float(os.environ["SERVICE_GRACE"])


def tell(text: str) -> None:
    print(f"{os.getpid()} {text}", flush=True)


async def tick() -> None:
    await anyio.sleep(0.01)


async def lead(s: Scope) -> None:
    while not s.stopping.is_set():
        async with s.leader("reports", ttl=2) as term:
            tell("leads")
            term.every(0.1, tick)
        tell("resigned")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with (
        open_persistence(os.environ["SERVICE_STORE"]) as store,
        scope(name="service", persistence=store) as s,
    ):
        s.stop_on_signals(grace=GRACE)
        s.every(0.1, tick)
        s.task(lead, s)
        app.state.scope = s
        if os.environ.get("SERVICE_SCOPES") == "2":
            async with scope(name="second", persistence=store) as second:
                second.stop_on_signals(grace=GRACE)
                second.every(0.1, tick)
                tell("started")
                yield
        else:
            tell("started")
            yield
        await s.stop(grace=GRACE)
        await anyio.sleep(0)
        tell("cleaned up")
    tell("ended")


async def slow(request: Request) -> PlainTextResponse:
    """Answer after a second, during which a task waits for a lock."""

    async def work() -> str:
        async with s.lock("shared"):
            await anyio.sleep(1)
        return "answered"

    s: Scope = request.app.state.scope
    tell("request")
    return PlainTextResponse((await s.task(work)).unwrap())


app = Starlette(routes=[Route("/slow", slow)], lifespan=lifespan)
