"""The end of a service: who is told, when, and what becomes of the requests in flight."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from gogoscope import TaskCancelled, current_scope
from gogoscope.integrations.asgi import ScopeMiddleware
from tests.unit.integrations.asgi.fake_server import Answer, Server
from tests.unit.integrations.asgi.test_middleware import App, Slow, respond, scope_here

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]


@pytest.fixture
def signalled() -> Iterator[list[int]]:
    """Handle SIGTERM as a server does; return the signals that it got."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


class Streaming(App):
    """Answers until the service is stopping."""

    async def serve(self, receive: Any, send: Any) -> None:
        self.did.append("streaming")
        await scope_here().stopping.wait()
        await respond(send, "the end")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
async def test_a_signal_that_the_server_handles_stops_the_service_before_the_requests_have_ended(
    signalled: list[int],
) -> None:
    app, answer = Streaming(), Answer()
    server = Server(ScopeMiddleware(app))
    async with server.running():
        async with anyio.create_task_group() as group:
            group.start_soon(server.ask, None, answer)
            await anyio.wait_all_tasks_blocked()
            assert "streaming" in app.did
            signal.raise_signal(signal.SIGTERM)
            with anyio.fail_after(60):
                while not answer.sent:
                    await anyio.sleep(0.01)
        assert answer.text == "the end"
        assert "shutdown" not in app.did
    assert server.lifespan[-1] == "lifespan.shutdown.complete"
    assert signalled == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)  # it is the server's alone again
    assert signalled == [signal.SIGTERM] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
async def test_signals_that_nobody_handles_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    server = Server(ScopeMiddleware(App()))
    async with server.running():
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def cut_off(app: App, kind: str = "http") -> Answer:
    """Shut a service down while a request is in flight, without any grace; return the answer."""
    answer = Answer()
    server = Server(ScopeMiddleware(app, grace=0))

    async def ask() -> None:
        await server.ask(None, answer, kind)

    async with anyio.create_task_group() as group, server.running():
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
    assert server.lifespan[-1] == "lifespan.shutdown.complete"
    return answer


async def test_a_request_that_outlives_the_grace_is_cancelled_and_answered() -> None:
    app = Slow()
    answer = await cut_off(app)
    assert (answer.status, answer.text) == (503, "the service is stopping")
    assert "cancelled" in app.did


async def test_a_response_that_outlives_the_grace_ends_with_an_error() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await cut_off(Slow(begins=True))
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskCancelled)
    assert str(error) == "the service is stopping, in the middle of the response"


async def test_a_websocket_that_outlives_the_grace_is_closed() -> None:
    app = Slow()
    answer = await cut_off(app, kind="websocket")
    (close,) = answer.sent
    assert (close["type"], close["code"]) == ("websocket.close", 1012)
    assert "cancelled" in app.did


async def test_a_websocket_that_is_closed_already_is_not_closed_again() -> None:
    class Closing(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await send({"type": "websocket.close", "code": 1001})
            await anyio.sleep_forever()

    answer = await cut_off(Closing(), kind="websocket")
    assert [message["code"] for message in answer.sent] == [1001]


async def test_what_goes_on_after_a_response_ends_with_the_grace_and_changes_nothing() -> None:
    class Mailing(Slow):
        async def serve(self, receive: Any, send: Any) -> None:
            await respond(send)
            await super().serve(receive, send)

    app = Mailing()
    answer = await cut_off(app)
    assert (answer.status, answer.text) == (200, "fine")
    assert "cancelled" in app.did


async def test_a_request_that_cancels_itself_is_answered() -> None:
    class Resigning(App):
        async def serve(self, receive: Any, send: Any) -> None:
            scope_here().cancel("of no concern to clients")
            await anyio.sleep(0)

    server = Server(ScopeMiddleware(Resigning()))
    async with server.running():
        answer = await server.ask()
    assert (answer.status, answer.text) == (503, "the request was cancelled")


async def test_tasks_have_what_the_requests_left_of_the_grace() -> None:
    class Serving(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await respond(send)

    ended: list[bool] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(scope_here().stopping.is_set())

    class Starting(Serving):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            if connection["type"] == "lifespan":
                scope_here().task(work)
            await super().__call__(connection, receive, send)

    server = Server(ScopeMiddleware(Starting(), grace=0.01))
    async with server.running():
        await server.ask()
    assert ended == [True]


async def test_a_middleware_serves_one_lifespan_after_another() -> None:
    server = Server(ScopeMiddleware(App()))
    for _ in range(2):
        async with server.running():
            assert (await server.ask()).text == "service request"
    assert server.lifespan == ["lifespan.startup.complete", "lifespan.shutdown.complete"] * 2


async def test_two_lifespans_at_a_time_are_refused() -> None:
    app = ScopeMiddleware(App())
    first, second = Server(app), Server(app)
    async with first.running():
        with pytest.raises((Exception, ExceptionGroup)):
            async with second.running():
                pytest.fail("it started")
        assert second.lifespan == ["lifespan.startup.failed"]
        assert (await first.ask()).text == "service request"


@pytest.mark.parametrize("reads", [True, False])
async def test_an_application_that_takes_a_lifespan_for_a_request_knows_none(reads: bool) -> None:
    class Naive(App):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            if reads:
                await receive()
            await respond(send)

    server = Server(ScopeMiddleware(Naive()))
    with anyio.fail_after(10):
        async with server.running():
            assert (await server.ask()).text == "fine"
    assert server.lifespan == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_startup_that_is_cancelled_closes_the_service() -> None:
    closed: list[bool] = []

    class Hanging(App):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            service = current_scope()
            assert service is not None
            service.task(anyio.sleep_forever)
            try:
                await anyio.sleep_forever()
            finally:
                closed.append(True)

    middleware: Any = ScopeMiddleware(Hanging())
    answer = Answer()

    async def live() -> None:
        await middleware({"type": "lifespan"}, answer.receive, answer.send)

    async with anyio.create_task_group() as group:
        group.start_soon(live)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert closed == [True]
    server = Server(ScopeMiddleware(App()))
    async with server.running():
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("knows_lifespans", [True, False])
async def test_a_startup_that_outlives_the_grace_has_failed(
    signalled: list[int], knows_lifespans: bool
) -> None:
    class Hanging(App):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            if knows_lifespans:
                await receive()
            signal.raise_signal(signal.SIGTERM)
            await anyio.sleep_forever()

    server = Server(ScopeMiddleware(Hanging(), grace=0.01))
    with pytest.raises((TimeoutError, ExceptionGroup)):
        async with server.running():
            pytest.fail("it started")
    assert server.lifespan == ["lifespan.startup.failed"]
    assert signalled == [signal.SIGTERM]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
async def test_a_shutdown_of_the_application_may_outlive_the_grace(signalled: list[int]) -> None:
    class Tidy(App):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            await super().__call__(connection, receive, send)
            await anyio.sleep(0.1)
            self.did.append("tidy")

    app = Tidy()
    server = Server(ScopeMiddleware(app, grace=0.01))
    async with server.running():
        signal.raise_signal(signal.SIGTERM)
        await anyio.sleep(0.05)
    assert app.did == ["startup", "shutdown", "tidy"]
    assert server.lifespan[-1] == "lifespan.shutdown.complete"
