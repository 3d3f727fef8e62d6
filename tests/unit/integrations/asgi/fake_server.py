"""A server that speaks ASGI to an application, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from attrs import define, field

Message = dict[str, Any]


@define
class Answer:
    """What the application answers to one request, and what the client does meanwhile."""

    sent: list[Message] = field(factory=list)
    body: list[bytes] = field(factory=lambda: [b""])
    gone: anyio.Event = field(factory=anyio.Event)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def text(self) -> str:
        return b"".join(m.get("body", b"") for m in self.sent).decode().rstrip("\n")

    async def receive(self) -> Message:
        if self.body:
            part = self.body.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.body)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


@define
class Server:
    """Sends requests to an application, and lives with it."""

    app: Callable[..., Any]
    lifespan: list[str] = field(factory=list)

    async def ask(
        self,
        headers: dict[str, str] | None = None,
        answer: Answer | None = None,
        kind: str = "http",
    ) -> Answer:
        """Send a request, and return what was answered."""
        answer = Answer() if answer is None else answer
        raw = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        await self.app({"type": kind, "path": "/", "headers": raw}, answer.receive, answer.send)
        return answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the application, and shut it down."""
        to_app, messages = anyio.create_memory_object_stream[Message](2)
        answers, from_app = anyio.create_memory_object_stream[Message](4)

        async def live() -> None:
            async with answers:
                await self.app({"type": "lifespan"}, messages.receive, answers.send)

        with to_app, messages, from_app:
            async with anyio.create_task_group() as group:
                group.start_soon(live)
                for phase in ("startup", "shutdown"):
                    await to_app.send({"type": f"lifespan.{phase}"})
                    answer = await from_app.receive()
                    self.lifespan.append(answer["type"])
                    if answer["type"] != f"lifespan.{phase}.complete":
                        break
                    if phase == "startup":
                        yield
