"""What code finds around it: the service, the deadline, and no request that is over."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope._core.context import current
from gogoscope.integrations.asgi import ScopeMiddleware, current_service, deadline_headers
from tests.unit.integrations.asgi.fake_server import Answer, Server
from tests.unit.integrations.asgi.test_middleware import HEADER, App, respond, scope_here

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]


async def test_a_task_of_the_service_has_not_the_deadline_of_the_request_that_started_it() -> None:
    seen: list[dict[str, str]] = []
    late = anyio.Event()

    async def mail() -> None:
        seen.append(deadline_headers())
        await late.wait()
        seen.append(deadline_headers())
        assert current_service() is scope_here()

    class Mailing(App):
        async def serve(self, receive: Any, send: Any) -> None:
            current_service().task(mail)
            assert deadline_headers()
            await anyio.sleep_forever()

    server = Server(ScopeMiddleware(Mailing()))
    async with server.running():
        assert (await server.ask({HEADER: "0.05"})).status == 504
        late.set()
        while len(seen) < 2:
            await anyio.sleep(0)
    assert seen == [{}, {}]


async def test_the_lifespan_and_its_tasks_know_the_service() -> None:
    seen: list[bool] = []

    async def work() -> None:
        seen.append(current_service() is scope_here())

    class Starting(App):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            if connection["type"] == "lifespan":
                seen.append(current_service() is scope_here())
                scope_here().task(work)
                assert deadline_headers() == {}
            await super().__call__(connection, receive, send)

    server = Server(ScopeMiddleware(Starting()))
    async with server.running():
        pass
    assert seen == [True, True]


async def test_an_application_inside_another_leaves_the_outer_one_as_it_was() -> None:
    class Inner(App):
        async def serve(self, receive: Any, send: Any) -> None:
            self.did.append(current_service().name)

    inner = Inner()

    class Outer(App):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            if connection["type"] == "lifespan":
                await mounted(connection, receive, send)
                return
            before = scope_here(), current_service(), deadline_headers().keys()
            await mounted(connection, receive, send)
            assert (scope_here(), current_service(), deadline_headers().keys()) == before
            await respond(send, current_service().name)

    mounted = ScopeMiddleware(inner, name="inner", deadline_header="inner-time")
    server = Server(ScopeMiddleware(Outer(), name="outer", request_timeout=1000))
    async with server.running():
        assert (await server.ask()).text == "outer"
    assert inner.did == ["startup", "inner", "shutdown"]


async def test_a_request_that_begins_in_the_context_of_the_last_one_is_not_inside_of_it() -> None:
    frames: list[int] = []

    def count() -> int:
        frame, number = current.get(), 0
        while frame is not None:
            frame, number = frame._outer, number + 1
        return number

    class Pipelined(App):
        async def serve(self, receive: Any, send: Any) -> None:
            frames.append(count())
            await respond(send)
            if len(frames) < 3:
                group.start_soon(server.ask)
                await anyio.sleep(0)

    server = Server(ScopeMiddleware(Pipelined()))
    async with server.running(), anyio.create_task_group() as group:
        await server.ask()
    assert frames == [frames[0]] * 3


@pytest.mark.parametrize(
    ("messages", "ended"),
    [
        ([{"type": "http.response.body", "more_body": True}], False),
        ([{"type": "http.response.body"}], True),
        ([{"type": "http.response.pathsend", "path": "/"}], True),
        ([{"type": "http.response.zerocopysend", "more_body": True}], False),
        ([{"type": "http.response.body"}, {"type": "http.response.trailers"}], True),
        ([{"type": "http.response.body"}], None),
        (
            [
                {"type": "http.response.body"},
                {"type": "http.response.trailers", "more_trailers": True},
            ],
            None,
        ),
    ],
)
async def test_a_response_has_ended_with_what_the_protocol_says(
    messages: list[Any], ended: bool | None
) -> None:
    trailers = ended is None or messages[-1]["type"] == "http.response.trailers"

    class Sending(App):
        async def serve(self, receive: Any, send: Any) -> None:
            start = {"type": "http.response.start", "status": 200, "headers": []}
            await send({**start, "trailers": trailers})
            for message in messages:
                await send(message)
            self.did.append("told" if deadline_headers() else "no deadline")

    app = Sending()
    server = Server(ScopeMiddleware(app))
    async with server.running():
        await server.ask({HEADER: "60"})
    assert ("no deadline" in app.did) == bool(ended)


async def test_what_comes_before_a_response_does_not_begin_it() -> None:
    class Hinting(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await send({"type": "http.response.early_hint", "links": []})
            await anyio.sleep_forever()

    server = Server(ScopeMiddleware(Hinting()))
    answer = Answer()
    async with server.running():
        await server.ask({HEADER: "0.05"}, answer)
    assert [message["type"] for message in answer.sent[1:]] == [
        "http.response.start",
        "http.response.body",
    ]
    assert answer.sent[1]["status"] == 504
