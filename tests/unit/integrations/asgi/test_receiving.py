"""What is received: by whom, and who is told that nobody waits any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope.integrations.asgi import ScopeMiddleware, deadline_headers, receiving
from tests.unit.integrations.asgi.fake_server import Answer, Server
from tests.unit.integrations.asgi.test_middleware import HEADER, App, respond

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]


class Apart(App):
    """Answers and listens in tasks of its own, as Django does, which no scope of ours reaches.

    :param group: runs these tasks
    :param heeds: whether it stops when it is told that the client has gone
    """

    def __init__(self, group: anyio.abc.TaskGroup, *, heeds: bool = True) -> None:
        super().__init__()
        self.group = group
        self.heeds = heeds

    async def serve(self, receive: Any, send: Any) -> None:
        over = anyio.Event()

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.did.append("told")
            if self.heeds:
                await anyio.sleep(0.01)
                over.set()

        self.group.start_soon(listen)
        self.group.start_soon(self.answer, send)
        await over.wait()
        self.did.append("ended by itself")

    async def answer(self, send: Any) -> None:
        self.did.append(str(deadline_headers()))
        await anyio.sleep_forever()


async def in_group(test: Callable[[anyio.abc.TaskGroup], Awaitable[None]]) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            await test(group)
            group.cancel_scope.cancel()


async def test_an_application_whose_tasks_nothing_reaches_is_told_of_the_deadline() -> None:
    async def told(group: anyio.abc.TaskGroup) -> None:
        app = Apart(group)
        server = Server(ScopeMiddleware(app))
        async with server.running():
            answer = await server.ask({HEADER: "0.5"})
        assert (answer.status, answer.text) == (504, "the time for this request is over")
        assert "ended by itself" in app.did

    await in_group(told)


async def test_its_deadline_is_no_later_while_it_listens() -> None:
    async def told(group: anyio.abc.TaskGroup) -> None:
        app = Apart(group)
        server = Server(ScopeMiddleware(app))
        async with server.running():
            await server.ask({HEADER: "0.5"})
        (headers,) = (did for did in app.did if did.startswith("{"))
        assert float(headers.split("'")[3]) <= 0.5

    await in_group(told)


async def test_an_application_that_is_told_and_goes_on_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiving, "MOMENT", 0.01)

    async def told(group: anyio.abc.TaskGroup) -> None:
        app = Apart(group, heeds=False)
        server = Server(ScopeMiddleware(app))
        async with server.running():
            assert (await server.ask({HEADER: "0.5"})).status == 504
        assert "told" in app.did
        assert "ended by itself" not in app.did

    await in_group(told)


async def test_an_application_that_is_told_of_a_disconnection_ends_by_itself() -> None:
    async def told(group: anyio.abc.TaskGroup) -> None:
        app, answer = Apart(group), Answer()
        server = Server(ScopeMiddleware(app, cancel_on_disconnect=True))
        async with server.running(), anyio.create_task_group() as asking:
            asking.start_soon(server.ask, None, answer)
            await anyio.wait_all_tasks_blocked()
            answer.gone.set()
        assert answer.sent == []
        assert "ended by itself" in app.did

    await in_group(told)


async def test_what_is_sent_too_late_is_dropped() -> None:
    async def told(group: anyio.abc.TaskGroup) -> None:
        class Apologizing(App):
            async def serve(self, receive: Any, send: Any) -> None:
                over = anyio.Event()

                async def listen() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    over.set()

                group.start_soon(listen)
                await over.wait()
                await respond(send, "you have gone")

        server = Server(ScopeMiddleware(Apologizing()))
        async with server.running():
            answer = await server.ask({HEADER: "0.5"})
        assert (answer.status, answer.text) == (504, "the time for this request is over")

    await in_group(told)


async def test_a_websocket_whose_client_has_gone_is_cancelled_if_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiving, "MOMENT", 0.01)

    class Pushing(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            try:
                await anyio.sleep_forever()
            finally:
                self.did.append("cancelled")

    app = Pushing()
    server = Server(ScopeMiddleware(app, cancel_on_disconnect=True))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async with server.running():
        await server.app({"type": "websocket", "headers": []}, receive, send)
    assert "cancelled" in app.did
    assert sent == ["websocket.accept"]


async def test_a_websocket_that_receives_is_told_and_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiving, "MOMENT", 0.01)

    class Chat(App):
        async def serve(self, receive: Any, send: Any) -> None:
            assert (await receive())["type"] == "websocket.disconnect"
            await anyio.sleep(0.05)
            self.did.append("cleaned up")

    app = Chat()
    server = Server(ScopeMiddleware(app, cancel_on_disconnect=True))

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1001}

    async with server.running():
        await server.app({"type": "websocket", "headers": []}, receive, Answer().send)
    assert "cleaned up" in app.did


async def test_an_error_in_place_of_a_message_reaches_the_application() -> None:
    """A middleware around ours may bound the body, for one."""

    class Bounded(Answer):
        async def receive(self) -> Any:
            if not self.body:
                raise OverflowError("the body is too large")
            return {"type": "http.request", "body": self.body.pop(), "more_body": True}

    class Reading(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await receive()
            with pytest.raises(OverflowError, match="the body is too large"):
                await receive()
            with pytest.raises(OverflowError, match="the body is too large"):
                await receive()
            await respond(send, "it was told")

    server = Server(ScopeMiddleware(Reading(), cancel_on_disconnect=True))
    with anyio.fail_after(30):
        async with server.running():
            answer = await server.ask(answer=Bounded())
    assert answer.text == "it was told"


async def test_messages_of_a_websocket_arrive_in_order_and_are_not_received_far_ahead() -> None:
    waiting = [f"line {number}" for number in range(5)]
    seen: list[str] = []

    class Reading(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await anyio.wait_all_tasks_blocked()
            assert len(waiting) == 4
            while (message := await receive())["type"] != "websocket.disconnect":
                seen.append(message["text"])

    async def receive() -> Any:
        if waiting:
            return {"type": "websocket.receive", "text": waiting.pop(0)}
        return {"type": "websocket.disconnect", "code": 1000}

    server = Server(ScopeMiddleware(Reading(), cancel_on_disconnect=True))
    async with server.running():
        await server.app({"type": "websocket", "headers": []}, receive, Answer().send)
    assert seen == [f"line {number}" for number in range(5)]
