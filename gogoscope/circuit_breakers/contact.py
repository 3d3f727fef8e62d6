"""Whether the store of a circuit answers, and when it is asked again.

A call never waits for a store that fails, and never fails because of it. So each request is
bounded, and how it went is noted here for the calls that come next.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from attrs import Factory, define

from gogoscope._core.clock import monotonic

SLOW_SECONDS = 0.5
"""A store that lets a request wait for longer is treated as if it failed."""

Answer = TypeVar("Answer")


@define(eq=False)
class Contact:
    """Whether the store of a circuit answers; shared by the scopes of an event loop.

    ``asked`` is true once it was asked, and at ``ask_at`` it is to be asked again, by a clock that
    nobody sets. ``first_read`` and ``sending`` are events while the first read, or a request that
    sends something, is in flight; they are set at its end. ``refreshing`` is true while a refresh
    is in flight. ``waiting_since`` is when each request in flight began, the oldest first, on the
    clock of ``monotonic()``. ``failed`` is true if the last request failed. ``looks_ahead`` is true
    while work in the background waits for the end of an open time.
    """

    asked: bool = False
    ask_at: float = -math.inf
    first_read: anyio.Event | None = None
    sending: anyio.Event | None = None
    refreshing: bool = False
    waiting_since: list[float] = Factory(list)
    failed: bool = False
    looks_ahead: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether the last request failed, or one in flight takes too long."""
        oldest = self.waiting_since[0] if self.waiting_since else math.inf
        return self.failed or monotonic() - oldest > SLOW_SECONDS

    async def bounded(self, request: Awaitable[Answer], bound: float) -> Answer:
        """Await a request for at most ``bound`` seconds, and note since when it is in flight."""
        since = monotonic()
        self.waiting_since.append(since)
        try:
            with anyio.fail_after(bound):
                return await request
        finally:
            self.waiting_since.remove(since)

    @asynccontextmanager
    async def turn_to_send(self) -> AsyncIterator[None]:
        """Wait until nothing else is sent, and let nothing else be sent inside the block."""
        while self.sending is not None:
            await self.sending.wait()
        sent = self.sending = anyio.Event()
        try:
            yield
        finally:
            sent.set()
            self.sending = None
